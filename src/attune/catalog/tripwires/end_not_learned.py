"""The end of an answer is not learned: the model would answer and never stop, while the loss looks healthy."""

from __future__ import annotations

from collections.abc import Iterator

from attune.core.contracts import Alarm, Tripwire, TripwireContext
from attune.core.conversation import stop_ids
from attune.core.tripwires import counted, learned_ids, places, rows_by_id, spread


class EndNotLearned(Tripwire):
    """The last learned token of a row's batch must be an end token; documents, which are cut anywhere, are left alone."""

    looks_at = ("completion",)
    requires = frozenset({"text-out"})

    def examine(self, context: TripwireContext) -> Iterator[Alarm]:
        """One alarm that names the token which is learned last instead."""
        stops, known = stop_ids(context.specialist), rows_by_id(context)
        looked = [one for one in spread(context.examples) if known.get(str(one["row_id"]), {}).get("prompt")]
        open_ended, last = [], ""
        for one in looked:
            ids = learned_ids(context, one)
            if ids and ids[-1] not in stops:
                open_ended.append(known[str(one["row_id"])])
                last = last or context.specialist.tokenizer.decode(ids[-1:])
        if open_ended:
            wanted = " or ".join(repr(context.specialist.tokenizer.convert_ids_to_tokens(one)) for one in stops)
            fix = "the objective masks the end token: where padding is masked by its id, give the tokenizer a padding token of its own"
            yield Alarm(f"the end token ({wanted}) is not learned in {counted(open_ended, looked, context.examples)}; the last learned token is {last!r}", places(open_ended), fix)
