"""Which study tests which claim, and by which criterion. The criteria were written before the studies were run.

Each function takes a seed and a preset and returns numbers; the work is done in llama2_lib.analysis. The ids are those of
the list of claims (C01 …); B01 … are the course's own bars, which the paper does not state. One file a part of the paper;
importing this package registers all of them in `claims.STUDIES`.
"""
from llama2_lib.course.studies import behaviour, machines, models, rewards, versions

__all__ = ["behaviour", "machines", "models", "rewards", "versions"]
