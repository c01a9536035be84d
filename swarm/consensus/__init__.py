"""Pure: canonicalise answers, group them, count, decide when a vote may stop and what it decided.

`question.py` says what is compared, `ballots.py` how the samples differ, `waves.py` how many are asked at first,
`reading.py` what one candidate answers, `weights.py` what it weighs, `count.py` how the stages of a vote follow each
other, `tally.py` where it stands, `lead.py` and `posterior.py` whether it may stop, `quorum.py` whether it is a
consensus, `verdict.py` what came of it and `swarm_object.py` how a client sees that. One file per strategy (`auto`,
`majority`, `weighted`, `medoid`, `judge`, `race`) and one per kind of answer (`*_answer.py`; `number.py` and `units.py`
for what is in them).
"""
