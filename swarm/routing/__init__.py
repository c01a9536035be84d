"""Who answers a request, and asking them: replicas here, on peers and upstream, single answers and ballots.

`dispatcher.py` is what the gateway calls. Pure: `replicas.py`, `preference.py`, `policy.py`,
`ballot_box.py` and the machines in `observations.py`, `prefix.py` and `poison_pills.py`. Effects: `router.py` (accounts
for every request), `replica_client.py` (asks one replica), `ballot.py`, `single.py`, `upstream.py`. How votes are
counted is `swarm/consensus/`; HTTP is the gateway's.
"""
