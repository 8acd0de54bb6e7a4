"""A round: predict, score, select, revise, hybrid, tune, evaluate, register, in this order and nowhere else."""

from ctune.round.desk import hand_in, simulate_expert
from ctune.round.drive import abandon, resume, start
from ctune.round.history import History, history
from ctune.round.revisions import begun, changes, unrevised
from ctune.round.state import ARROWS, ArrowDone, RoundState, folder_of, rounds, takes_revisions

__all__ = [
    "ARROWS",
    "ArrowDone",
    "History",
    "RoundState",
    "abandon",
    "begun",
    "changes",
    "folder_of",
    "hand_in",
    "history",
    "resume",
    "rounds",
    "simulate_expert",
    "start",
    "takes_revisions",
    "unrevised",
]
