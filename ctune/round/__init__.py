"""A round: predict, score, select, revise, hybrid, tune, evaluate, register, in this order and nowhere else."""

from ctune.round.drive import resume, start
from ctune.round.state import ARROWS, ArrowDone, RoundState, folder_of, rounds

__all__ = ["ARROWS", "ArrowDone", "RoundState", "folder_of", "resume", "rounds", "start"]
