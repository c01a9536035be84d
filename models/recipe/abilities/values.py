"""Words and values that requests carry: known ones, and endless invented ones that can only be copied."""

from __future__ import annotations

import random
import string

from models.recipe.splits import Split


def words_of(text: str) -> list[str]:
    """The words in `text`, which stands for a list that would fill pages."""
    return text.split()


VERBS = words_of(
    "get find search list create delete update send book check read write open close start stop play show add remove "
    "order buy sell rent move copy rename export import convert count fetch load save share print scan track plan "
    "schedule cancel confirm register invite call notify translate summarize rate review compare sort filter merge "
    "split lock unlock reset enable disable assign archive restore upload download"
)
NOUNS = words_of(
    "weather time recipe flight hotel room ticket message email file folder note task event meeting song album movie "
    "book photo video report invoice order product price stock user account contact address phone route map train bus "
    "taxi car bike table seat menu dish drink restaurant shop store parcel letter calendar alarm timer reminder light "
    "lamp door window heater fan camera printer screen server database backup log job queue page post comment blog "
    "article news story poem game score team player match course lesson exam student teacher doctor patient clinic "
    "budget payment loan coupon card wallet garden plant pet farm tool sensor robot rocket ship boat island museum"
)
PARAMETERS = words_of(
    "city name title subject topic query text date day location place person owner author category label language "
    "currency country street code key path filename format sender recipient keyword genre brand model color size unit"
)
INTEGER_PARAMETERS = words_of(
    "count limit number year age amount quantity minutes hours days guests pages level rank id"
)
NUMBER_PARAMETERS = words_of("price temperature weight distance rate height speed ratio budget length")
BOOLEAN_PARAMETERS = words_of("urgent public verbose recursive active private detailed silent express visible")
ARRAY_PARAMETERS = words_of("tags names items cities colors labels guests topics words ids")
ENUMS = (
    ("unit", ("celsius", "fahrenheit", "kelvin")), ("size", ("small", "medium", "large")),
    ("priority", ("low", "normal", "high")), ("format", ("pdf", "html", "csv", "text")),
    ("order", ("newest", "oldest", "random")), ("mode", ("fast", "safe", "slow")),
    ("color", ("red", "green", "blue", "yellow")), ("status", ("open", "closed", "pending")),
    ("language", ("english", "german", "french", "spanish")), ("day", ("monday", "friday", "sunday")),
    ("seat", ("window", "aisle", "middle")), ("level", ("beginner", "advanced", "expert")),
)  # fmt: skip
CITIES = words_of(
    "Paris London Berlin Rome Madrid Vienna Oslo Tokyo Cairo Lima Boston Chicago Dallas Denver Seattle Miami Toronto "
    "Sydney Melbourne Munich Hamburg Cologne Milan Naples Venice Lyon Nice Geneva Zurich Basel Prague Warsaw Krakow "
    "Lisbon Porto Athens Istanbul Mumbai Delhi Shanghai Seoul Osaka Kyoto Singapore Bangkok Jakarta Nairobi Lagos Accra"
)
PEOPLE = words_of(
    "Anna Ben Clara David Emma Frank Grace Henry Ida Jack Kate Leo Mia Noah Olga Paul Rosa Sam Tina Victor Wendy Yusuf "
    "Zoe Alice Bob Carol Diego Elena Felix Hannah Ivan Julia Karl Laura Martin Nora Oscar Peter Ruth Simon Tom"
)
WORDS = words_of(
    "red blue green cold warm happy quiet little golden silver morning evening summer winter river mountain forest "
    "ocean music history science coffee pizza pasta salad bread cheese apple lemon chicken soup rice jazz rock opera "
    "football tennis chess yoga travel nature space dragon castle bridge engine signal network family school holiday "
    "birthday project report budget draft final monthly secret ancient modern purple orange simple stars moon night"
)
_ONSETS = words_of("b br c ch cl d dr f fl g gr h j k kl l m n p pl pr qu r s sh sk st t th tr v w y z")
_VOWELS = words_of("a e i o u ai au ea ee ia io oa oo ou")
_CODAS = ["", *words_of("n r s l t m x nd nt rk st ck ng"), ""]


def invented_word(source: random.Random) -> str:
    """A pronounceable word that means nothing, one to four syllables."""
    syllables = source.choices((1, 2, 3, 4), (1, 5, 4, 1))[0]
    parts = [source.choice(_ONSETS) + source.choice(_VOWELS) for _ in range(syllables)]
    return "".join(parts) + source.choice(_CODAS)


def scrambled(source: random.Random) -> str:
    """Letters and digits in no order at all."""
    letters = source.choice((string.ascii_lowercase, string.ascii_uppercase, string.ascii_letters))
    return "".join(source.choice(letters + (string.digits if source.random() < 0.3 else "")) for _ in range(
        source.randint(2, 10)
    ))  # fmt: skip


def glued_words(source: random.Random) -> str:
    """Two known words without a space, `NiceOrange`: the tokens of a word that is itself held out are copied too."""
    words = source.choice((CITIES, PEOPLE, WORDS, NOUNS, VERBS)), source.choice((CITIES, PEOPLE, WORDS, WORDS))
    first, second = (source.choice(words[0]), source.choice(words[1]))
    return first + (second.capitalize() if source.random() < 0.6 else source.choice(("-", "_")) + second)


def _dashed_code(source: random.Random) -> str:
    letters = "".join(source.choice(string.ascii_uppercase) for _ in range(source.randint(1, 3)))
    return f"{letters}-{source.randint(1, 9999)}"


def _email(source: random.Random) -> str:
    host = invented_word(source) if source.random() < 0.7 else "example"
    return f"{source.choice(PEOPLE).lower()}@{host}.{source.choice(('com', 'org', 'net'))}"


def _date(source: random.Random) -> str:
    return f"{source.randint(1990, 2039)}-{source.randint(1, 12):02}-{source.randint(1, 28):02}"


def _file(source: random.Random) -> str:
    stem = invented_word(source) if source.random() < 0.6 else source.choice(WORDS)
    return f"{stem}.{source.choice(('txt', 'pdf', 'csv', 'md', 'py', 'jpg'))}"


def _one_string(source: random.Random) -> str:
    kind = source.random()
    if kind < 0.14:
        return source.choice(CITIES)
    if kind < 0.24:
        return source.choice(PEOPLE)
    if kind < 0.36:
        return invented_word(source).capitalize()
    if kind < 0.50:
        return invented_word(source)
    if kind < 0.60:
        return source.choice(WORDS)
    if kind < 0.76:
        return " ".join(
            source.choice(WORDS) if source.random() < 0.6 else invented_word(source)
            for _ in range(source.randint(2, 4))
        )
    if kind < 0.80:
        return f"{source.choice(PEOPLE)} {invented_word(source).capitalize()}"
    if kind < 0.86:
        return glued_words(source)
    return source.choice((_dashed_code, _email, _date, _file, scrambled))(source)


def string_value(source: random.Random, split: Split) -> str:
    """A name, a title, a date, a code...: one to four words that belong to this side."""
    return split.draw(lambda: _one_string(source))


def integer_value(source: random.Random, split: Split) -> int:
    """1 to 9,999, short ones as often as long ones; two and more digits belong to one side."""
    digits = source.randint(1, 4)
    if digits == 1:
        return source.randint(1, 9)
    return int(split.draw(lambda: str(source.randint(10 ** (digits - 1), 10**digits - 1))))


def number_value(source: random.Random, split: Split) -> float:
    """A number with one or two decimals."""
    return float(split.draw(lambda: str(round(source.uniform(0.5, source.choice((10, 100, 1000))), 2 if source.random()
                                              < 0.4 else 1))))  # fmt: skip
