"""What a vote buys, measured: questions with known answers, samples drawn once, and statistics as pure functions.

`questions.py` reads what is asked, `samples.py` keeps what was answered, `replay.py` counts the votes of any subset of
it with the product's own tally, and the rest computes: `curves.py` (accuracy against the number of votes, baselines),
`early_stop.py`, `agreement.py` (what agreement says, what liars cost), with `intervals.py` for how sure a figure is.
`findings.py` puts them together, `report.py` and `plots.py` show them. Asking an endpoint does not belong here.
"""
