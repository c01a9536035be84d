"""Votes, without input or output: what is compared, how it is counted, when a vote may stop and what it decided.

`options.py` has the names of what may be asked of a vote, `question.py` what is compared, `waves.py` how many are asked
at first and how their samples differ, `reading.py` what one candidate answers (`*_answer.py` each form of answer),
`weights.py` what it weighs, `strategies.py` and `judge.py` how an answer is chosen, `count.py` the stages of a vote,
`tally.py` where it stands and whether it may stop, `verdict.py` what came of it, `swarm_object.py` how a client
sees that. Who is asked, and asking them, is `swarm/routing/`.
"""
