"""`weighted`: as `majority`, with the weights that were measured; prose goes to the answer most like the rest.

Words for word, prose hardly ever agrees: a plain count would hand every vote to the heaviest voter.
"""

from __future__ import annotations

from swarm.consensus.majority import most_votes
from swarm.consensus.medoid import most_alike_prose
from swarm.consensus.voting_strategy import VotingStrategy

WEIGHTED = VotingStrategy(structured=most_votes, prose=most_alike_prose)
