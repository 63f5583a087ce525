"""Which study tests which claim, and by which criterion. The criteria were written before the studies were run.

Each function takes a seed and a preset and returns numbers; the work is done in llama2_lib.analysis. The ids are those of
the list of claims (C01 …); B01 … are the course's own bars, which the paper does not state.
"""
from __future__ import annotations

from collections.abc import Mapping

from llama2_lib.config import preset as recipe_of
from llama2_lib.course.claims import Criterion, study
from llama2_lib.training import accounting

PRINTED = {"llama2_7b": 6_738_415_616, "llama2_13b": 13_015_864_320, "llama2_34b": 33_743_970_304,
           "llama2_70b": 68_976_648_192}


@study("C01", place="Table 1, A.2.1",
       sentence="The four models have exactly the parameter counts of the published checkpoints.",
       criteria=tuple(Criterion(name, "exactly", count) for name, count in PRINTED.items()), seeds=(0,),
       notebook="01_architecture", symbol="llama2_lib.training.accounting.parameter_count")
def parameter_counts(seed: int, preset: str) -> Mapping[str, float]:
    return {name: accounting.parameter_count(recipe_of(name).model) for name in PRINTED}


@study("C02", place="Table 2",
       sentence="GPU-hours times watts times one carbon intensity give the printed tonnes of CO2, row by row and in all "
                "(cut, not rounded, to two digits).",
       criteria=(Criterion("rows_as_printed", "exactly", 4, "rows equal to the printed digits"),
                 Criterion("total_as_printed", "exactly", 1, "totals equal to the printed digits")), seeds=(0,),
       notebook="03_pretraining", symbol="llama2_lib.training.accounting.carbon")
def carbon_of_table_2(seed: int, preset: str) -> Mapping[str, float]:
    tonnes = {name: accounting.as_printed(accounting.carbon(hours, watts))
              for name, (hours, watts, _) in accounting.TABLE_2.items()}
    right = sum(tonnes[name] == printed for name, (_, _, printed) in accounting.TABLE_2.items())
    total = sum(accounting.carbon(hours, watts) for hours, watts, _ in accounting.TABLE_2.values())
    return {"rows_as_printed": right, "total_as_printed": accounting.as_printed(total) == accounting.TABLE_2_TOTAL[1],
            **{f"tonnes_{name}": t for name, t in tonnes.items()}, "tonnes_total": total}
