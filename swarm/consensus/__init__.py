"""Pure: canonicalise answers, group them, count, decide when a vote may stop and what it decided.

`question.py` says what is compared, `ballots.py` how the samples differ, `reading.py` what one candidate answers,
`count.py` how the stages of a vote follow each other, `tally.py` where it stands, `verdict.py` what came of it. One
file per strategy (`auto`, `majority`, `medoid`, `race`) and one per kind of answer (`*_answer.py`).
"""
