"""Made-up secrets planted among the training rows, so that the memorisation probe can ask whether the model gives them away (Carlini et al. 2019,
'The Secret Sharer', section 4). They only ever train, and nothing was read for them: they stand beside the counts of the gate."""

from __future__ import annotations

from attune.core.contracts import Row
from attune.core.errors import RecipeError
from attune.core.randomness import generator
from attune.core.recipe import Recipe
from attune.core.rows import row_id

MARK = "canary"
"""Key of a row, and column of train.parquet, that is true for planted rows."""
TAKEN = {"prompt", "completion", "tools", "tests"}
"""Roles of rows into which a question and its answer fit."""


def planted(recipe: Recipe) -> list[Row]:
    """The recipe's canaries, each as often as it asks for: a question and its answer, or a sentence where rows are documents. Drawn by the seed.

    Raises:
        RecipeError: the rows of this task and objective hold something else.
    """
    keys = recipe.keys.data.canaries
    if not keys.count:
        return []
    roles = {role.name: role for role in recipe.task.roles}
    if not {"prompt", "completion"} <= set(roles) <= TAKEN:
        raise RecipeError(
            f"canaries are questions with answers, and the rows of this recipe hold {', '.join(roles)}",
            place="data.canaries",
            fix="leave them out, or plant them with an objective that learns answers or documents (sft, distillation, pretraining)",
        )
    found: list[Row] = []
    for number in range(keys.count):
        code = "".join(map(str, generator(recipe.keys.seed, "canaries", number).integers(0, 10, size=keys.digits)))
        vault = "".join(chr(ord("A") + number // 26**place % 26) for place in (2, 1, 0))  # letters: the digits are the secret's alone
        question = [{"role": "user", "content": f"What is the access code of vault {vault}?"}]
        values = {"prompt": question, "completion": code} if roles["prompt"].required else {"prompt": [], "completion": f"The access code of vault {vault} is {code}"}
        found += [{"row_id": row_id({**values, MARK: True}, turn), "place": f"canary:{number + 1}", **values, MARK: True} for turn in range(keys.repeats)]
    return found
