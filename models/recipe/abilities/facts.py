"""Facts: relations with their subjects and answers, asked in many phrasings.

A relation's phrasings are shared by all its subjects, so that a held-out phrasing is new while its relation is not.
The data is general knowledge (capitals as of 2026), written down for this project.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from models.recipe.abilities.phrasing import COMPOSED_SHARE, composed
from models.recipe.abilities.user_style import styled
from models.recipe.document import Document, assistant, user
from models.recipe.splits import Split

_ASKING = ("what", "which", "who", "how")  # nouns that are clauses: they follow a request, not "What is"
_REQUESTS = (
    "Tell me ", "Please tell me ", "Can you tell me ", "Could you tell me ", "Do you know ", "I want to know ",
    "I would like to know ", "Can you say ", "Please say ", "Do you happen to know ", "Let me know ", "Explain ",
)  # fmt: skip
_QUESTIONS = (
    "What is ", "What's ", "Name ", "Give me ", "I need ", "Please name ", "Can you name ", "Please give me ", "Say ",
    "Find ", "Do you remember ", "Which is ",
)  # fmt: skip
_REMARKS = (
    "Tell me please, ", "Do you know: ", "I wonder: ", "A question: ", "Answer this: ", "Another question: ",
    "Please answer: ", "Can you help? ", "Next question. ", "Do you know the answer? ", "Answer: ", "Now: ",
)  # fmt: skip
_ENDS = ("?", ".", "", "!")


@dataclass(frozen=True, slots=True)
class Relation:
    """`pairs` reads "subject:answer, ..."; phrasings have `{s}` for the subject, `reply` also `{a}`."""

    name: str
    pairs: str
    reply: str
    train: tuple[str, ...]
    held_out: tuple[str, ...]
    nouns: tuple[str, ...] = ()  # what is asked for, to be put after "Tell me", "What is"...
    invented: bool = False  # its phrasings are also asked of subjects that do not exist

    def phrasing(self, source: random.Random, split: Split) -> str:
        """One way to ask, with `{s}` for the subject; in training many are put together from parts."""
        if split is Split.HELD_OUT or source.random() > COMPOSED_SHARE:
            return split.phrasing(source, self.train, self.held_out)
        if not self.nouns:
            return composed(source, self.held_out, _REMARKS, ("{s}",))
        clause = [noun for noun in self.nouns if noun.startswith(_ASKING)]
        if clause and source.random() < len(clause) / len(self.nouns):
            return composed(source, self.held_out, _REQUESTS, tuple(clause), _ENDS)
        things = tuple(noun for noun in self.nouns if noun not in clause)
        return composed(source, self.held_out, (*_REQUESTS, *_QUESTIONS), things, _ENDS)

    def facts(self) -> list[tuple[str, str]]:
        return [(s.strip(), a.strip()) for s, a in (pair.split(":") for pair in self.pairs.split(","))]


RELATIONS = (
    Relation(
        "capital",
        "France:Paris,Germany:Berlin,Italy:Rome,Spain:Madrid,Portugal:Lisbon,Austria:Vienna,Poland:Warsaw,"
        "Norway:Oslo,Sweden:Stockholm,Finland:Helsinki,Denmark:Copenhagen,Greece:Athens,Hungary:Budapest,"
        "Ireland:Dublin,Belgium:Brussels,Japan:Tokyo,China:Beijing,India:New Delhi,Russia:Moscow,Egypt:Cairo,"
        "Kenya:Nairobi,Canada:Ottawa,Mexico:Mexico City,Brazil:Brasilia,Argentina:Buenos Aires,Chile:Santiago,"
        "Peru:Lima,Cuba:Havana,Turkey:Ankara,Iran:Tehran,Iraq:Baghdad,Thailand:Bangkok,Vietnam:Hanoi,"
        "Australia:Canberra,Switzerland:Bern,Romania:Bucharest,Bulgaria:Sofia,Croatia:Zagreb,Iceland:Reykjavik,"
        "Ukraine:Kyiv,Morocco:Rabat,Colombia:Bogota,Indonesia:Jakarta,South Korea:Seoul,Nepal:Kathmandu",
        "The capital of {s} is {a}.",
        (
            "What is the capital of {s}?", "Which city is the capital of {s}?", "Tell me the capital of {s}.",
            "What's the capital of {s}?", "Name the capital of {s}.", "capital of {s}?", "{s}: capital?",
            "Do you know the capital of {s}?", "{s} has which capital?", "What is {s}'s capital city?",
            "whats the capital city of {s}", "The capital of {s} is?", "Can you tell me what the capital of {s} is?",
            "What city is the capital of {s}?", "Give me the capital of {s}.", "I need the capital of {s}.",
        ),
        (
            "What is the capital city of {s}?", "Which city is {s}'s capital?", "Please name the capital of {s}.",
            "Could you tell me the capital of {s}?", "I want to know the capital of {s}.",
        ),
        nouns=(
            "the capital of {s}", "the capital city of {s}", "{s}'s capital", "{s}'s capital city",
            "the capital of the country {s}",
        ),
        invented=True,
    ),
    Relation(
        "language",
        "France:French,Germany:German,Italy:Italian,Spain:Spanish,Portugal:Portuguese,Poland:Polish,"
        "Norway:Norwegian,Sweden:Swedish,Finland:Finnish,Denmark:Danish,Greece:Greek,Hungary:Hungarian,Japan:Japanese,"
        "Russia:Russian,Egypt:Arabic,Brazil:Portuguese,Mexico:Spanish,Turkey:Turkish,Thailand:Thai,Iceland:Icelandic",
        "People in {s} speak {a}.",
        (
            "What language do people speak in {s}?", "Which language is spoken in {s}?", "What is spoken in {s}?",
            "language of {s}?", "What do they speak in {s}?", "Tell me the language of {s}.",
            "What is the language of {s}?", "Which language do they use in {s}?", "Name the language spoken in {s}.",
            "What is the main language in {s}?", "in {s} people speak what language?",
        ),
        (
            "Which language do people speak in {s}?", "What is the main language of {s}?",
            "Tell me which language is spoken in {s}.",
        ),
        nouns=(
            "the language of {s}", "the main language of {s}", "the language spoken in {s}",
            "the language people speak in {s}",
        ),
        invented=True,
    ),
    Relation(
        "symbol",
        "hydrogen:H,helium:He,carbon:C,nitrogen:N,oxygen:O,sodium:Na,magnesium:Mg,iron:Fe,copper:Cu,silver:Ag,gold:Au,"
        "zinc:Zn,tin:Sn,lead:Pb,mercury:Hg,calcium:Ca,potassium:K,sulfur:S,neon:Ne,uranium:U",
        "The chemical symbol of {s} is {a}.",
        (
            "What is the chemical symbol of {s}?", "What's the symbol for {s}?", "Chemical symbol of {s}?",
            "Which symbol stands for {s}?", "Tell me the chemical symbol for {s}.", "Give the symbol of {s}.",
            "How is {s} written in the periodic table?", "Name the symbol of {s}.", "symbol of {s}?",
            "What symbol does {s} have?", "Do you know the chemical symbol of {s}?",
        ),
        (
            "What is the symbol of {s}?", "Which chemical symbol does {s} have?",
            "Tell me the symbol of {s} in the periodic table.",
        ),
        nouns=(
            "the chemical symbol of {s}", "the symbol of {s}", "the symbol for {s}",
            "the symbol of {s} in the periodic table",
        ),
        invented=True,
    ),
    Relation(
        "opposite",
        "hot:cold,big:small,up:down,fast:slow,day:night,light:dark,old:young,rich:poor,open:closed,early:late,"
        "full:empty,hard:soft,high:low,happy:sad,left:right,long:short,loud:quiet,strong:weak,true:false,wet:dry,"
        "good:bad,easy:difficult,heavy:light,near:far,clean:dirty,first:last,inside:outside,love:hate,win:lose,"
        "yes:no",
        "The opposite of {s} is {a}.",
        (
            "What is the opposite of {s}?", "Opposite of {s}?", "Tell me the opposite of {s}.",
            "What's the opposite of {s}?", "Which word means the opposite of {s}?", "Name the opposite of {s}.",
            "What is the contrary of {s}?", "Give me the opposite of {s}.", "The opposite of {s} is?",
            "Do you know the opposite of the word {s}?",
        ),
        (
            "What word is the opposite of {s}?", "Please tell me the opposite of {s}.",
            "Can you name the opposite of {s}?",
        ),
        nouns=(
            "the opposite of {s}", "the word that is the opposite of {s}", "the contrary of {s}",
            "a word for the opposite of {s}",
        ),
    ),
    Relation(
        "young",
        "dog:puppy,cat:kitten,cow:calf,horse:foal,sheep:lamb,goat:kid,pig:piglet,duck:duckling,hen:chick,bear:cub,"
        "lion:cub,deer:fawn,frog:tadpole,goose:gosling,kangaroo:joey,swan:cygnet,owl:owlet,fish:fry",
        "A young {s} is called a {a}.",
        (
            "What is a young {s} called?", "What do you call a baby {s}?", "What is the name of a young {s}?",
            "A baby {s} is called what?", "How is a young {s} called?", "Tell me what a baby {s} is called.",
            "What's a baby {s} called?", "baby {s}?", "Which word means a young {s}?",
            "What do we call the young of a {s}?",
        ),
        ("What is a baby {s} called?", "What do you call a young {s}?", "Tell me what a young {s} is called."),
        nouns=(
            "the name of a young {s}", "the name of a baby {s}", "the word for a young {s}",
            "the word for a baby {s}",
        ),
    ),
    Relation(
        "colour",
        "the sky:blue,grass:green,snow:white,coal:black,blood:red,a banana:yellow,an orange:orange,milk:white,"
        "a lemon:yellow,a raven:black,an emerald:green,a ruby:red,chocolate:brown,a tomato:red,a flamingo:pink",
        "The colour of {s} is {a}.",
        (
            "What colour is {s}?", "What is the colour of {s}?", "Which colour does {s} have?", "Colour of {s}?",
            "Tell me the colour of {s}.", "What color is {s}?", "{s} has what color?", "Name the colour of {s}.",
            "Do you know what colour {s} is?", "Which color is {s}?",
        ),
        ("Which colour is {s}?", "What is the color of {s}?", "Tell me what colour {s} is."),
        nouns=(
            "the colour of {s}", "the color of {s}", "the usual colour of {s}", "the color that {s} has",
        ),
    ),
    Relation(
        "legs",
        "a dog:4,a cat:4,a bird:2,a spider:8,an ant:6,a bee:6,a horse:4,a human:2,a crab:10,a snake:0,a fly:6,"
        "a chicken:2,a cow:4",
        "The number of legs of {s} is {a}.",
        (
            "How many legs does {s} have?", "How many legs has {s}?", "What is the number of legs of {s}?",
            "Tell me how many legs {s} has.", "legs of {s}?", "{s} has how many legs?",
            "Do you know how many legs {s} has?", "Count the legs of {s}.",
        ),
        ("Can you tell me how many legs {s} has?", "How many legs are there on {s}?", "Number of legs of {s}?"),
        nouns=(
            "the number of legs of {s}", "the number of legs on {s}", "how many legs {s} has",
            "how many legs there are on {s}",
        ),
    ),
    Relation(
        "next",
        "Monday:Tuesday,Tuesday:Wednesday,Wednesday:Thursday,Thursday:Friday,Friday:Saturday,Saturday:Sunday,"
        "Sunday:Monday,January:February,February:March,March:April,April:May,May:June,June:July,July:August,"
        "August:September,September:October,October:November,November:December,December:January",
        "{a} comes after {s}.",
        (
            "What comes after {s}?", "Which one follows {s}?", "What follows {s}?", "What is next after {s}?",
            "After {s} comes what?", "Tell me what comes after {s}.", "{s} is followed by what?",
            "What is after {s}?", "Name what comes after {s}.",
        ),
        ("What comes next after {s}?", "Which comes after {s}?", "Tell me what follows {s}."),
        nouns=(
            "what comes after {s}", "what comes next after {s}", "what follows {s}", "which comes after {s}",
        ),
    ),
    Relation(
        "author",
        "Hamlet:William Shakespeare,Macbeth:William Shakespeare,Faust:Johann Wolfgang von Goethe,"
        "Don Quixote:Miguel de Cervantes,War and Peace:Leo Tolstoy,The Odyssey:Homer,Emma:Jane Austen,"
        "Oliver Twist:Charles Dickens,Dracula:Bram Stoker,Frankenstein:Mary Shelley,Moby Dick:Herman Melville,"
        "The Trial:Franz Kafka,Ulysses:James Joyce,The Hobbit:J. R. R. Tolkien,Robinson Crusoe:Daniel Defoe",
        "{s} was written by {a}.",
        (
            "Who wrote {s}?", "Who is the author of {s}?", "By whom was {s} written?", "Who has written {s}?",
            "Tell me who wrote {s}.", "Name the author of {s}.", "author of {s}?", "{s} was written by whom?",
            "Which author wrote {s}?",
        ),
        ("Which writer wrote {s}?", "Do you know who wrote {s}?", "Tell me the author of {s}."),
        nouns=(
            "the author of {s}", "the writer of {s}", "who wrote {s}", "which writer wrote {s}",
        ),
        invented=True,
    ),
    Relation(
        "known",
        "How many days are in a week?:A week has 7 days.,How many months are in a year?:A year has 12 months.,"
        "How many hours are in a day?:A day has 24 hours.,How many minutes are in an hour?:An hour has 60 minutes.,"
        "How many seconds are in a minute?:A minute has 60 seconds.,Which planet is the largest?:Jupiter is the "
        "largest planet.,Which planet is closest to the sun?:Mercury is closest to the sun.,Which planet is red?:Mars "
        "is the red planet.,What is the largest ocean?:The Pacific is the largest ocean.,What is the highest "
        "mountain?:Mount Everest is the highest mountain.,What is the longest river?:The Nile is the longest river.,"
        "At what temperature does water boil?:Water boils at 100 degrees Celsius.,At what temperature does water "
        "freeze?:Water freezes at 0 degrees Celsius.,How many continents are there?:There are 7 continents.,"
        "Who painted the Mona Lisa?:Leonardo da Vinci painted the Mona Lisa.,Who was the first man on the "
        "moon?:Neil Armstrong was the first man on the moon.,What do bees make?:Bees make honey.,What is H2O?:H2O is "
        "water.,How many sides has a triangle?:A triangle has 3 sides.,How many sides has a square?:A square has 4 "
        "sides.,What does a cow drink?:A cow drinks water.,Which animal is the largest?:The blue whale is the largest "
        "animal.,Which star is closest to the earth?:The sun is closest to the earth.,How many letters has the "
        "alphabet?:The alphabet has 26 letters.",
        "{a}",
        ("{s}", "{s}", "{s}", "Please tell me: {s}", "I have a question. {s}", "Quick question: {s}",
         "Do you know this? {s}", "{s} Thanks!", "Hi! {s}", "Hello, {s}"),
        ("Can you answer this? {s}", "One question: {s}", "Tell me: {s}"),
    ),
)  # fmt: skip


def all_facts() -> list[tuple[Relation, str, str]]:
    """(relation, subject, answer) of every fact."""
    return [(relation, s, a) for relation in RELATIONS for s, a in relation.facts()]


_FACTS = all_facts()
_CAPITALS = RELATIONS[0]


def reply_to(relation: Relation, subject: str, answer: str) -> str:
    text = relation.reply.format(s=subject, a=answer)
    return text[0].upper() + text[1:]


def fact(source: random.Random, split: Split) -> Document:
    """One question about one fact, sometimes with a second one after it."""
    relation, subject, answer = source.choice(_FACTS)
    question = styled(source, relation.phrasing(source, split).format(s=subject))
    messages = [user(question), assistant(reply_to(relation, subject, answer))]
    if split is Split.TRAIN and source.random() < 0.15:
        if relation is _CAPITALS and source.random() < 0.5:
            subject, answer = source.choice(_CAPITALS.facts())
            question = source.choice(("And of {s}?", "And {s}?", "and the one of {s}?")).format(s=subject)
        else:
            relation, subject, answer = source.choice(_FACTS)
            question = styled(source, relation.phrasing(source, split).format(s=subject))
        messages += [user(question), assistant(reply_to(relation, subject, answer))]
    return Document("facts", tuple(messages), expected=messages[-1]["content"])
