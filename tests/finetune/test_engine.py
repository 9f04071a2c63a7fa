"""What makes training fast changes nothing in it: micro-batches, the cut embedding table and cached layers give the same weights."""

from __future__ import annotations

import math
import time

import pytest
import torch

from attune.catalog.objectives.few_shot import FewShot
from attune.core import catalog
from attune.core.events import Events
from attune.core.learner import Unsteady
from attune.core.models import last_layers, resolve_base
from attune.core.recipe_train import TrainKeys
from attune.core.specialist import Specialist, open_bundle
from attune.core.tunable import TunableModel
from attune.stages import finetune
from attune.stages.finetune import dropping, torch_learner
from attune.stages.finetune.stage import Session
from attune.stages.finetune.torch_learner import TorchLearner

from .conftest import make_dataset, make_rows

LABELS = {"labels": ["delivery", "invoice", "login", "refund"], "multi_label": False}


def learner_of(tiny_base, method="full", cache=None, **train) -> TorchLearner:
    base = resolve_base(str(tiny_base))
    task, objective, way = catalog.build("tasks", "text_classification"), catalog.build("objectives", "supervised"), catalog.build("methods", method)
    specialist = Specialist(task, LABELS, way.prepare(task.build(base, LABELS), 7), base.tokenizer(), base, 32, "x", method=way)
    examples = objective.examples(specialist, make_rows(48), 32)
    objective.precompute(specialist, examples)
    keys = TrainKeys.model_validate({"epochs": 2, "batch_size": 16, "learning_rate": 1e-3, "weight_decay": 0.1, **train})
    learner = TorchLearner(specialist, objective, examples, keys, 7, "fp32", cache)
    objective.begin(specialist, examples)
    learner.begin()
    return learner


def trained(learner: TorchLearner, steps: int = 4) -> dict[str, torch.Tensor]:
    for index in range(steps):
        learner.step(index)
    with learner.settled():
        weights = learner.weights()
    learner.load_weights(weights)
    return {name: p.detach().clone() for name, p in learner.model.named_parameters()}


def apart(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """The largest difference of a weight. The keys' bias has no effect, so its gradient is rounding, which Adam blows up: left out."""
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a if not name.endswith("key.bias"))


@pytest.mark.usefixtures("any_length")
@pytest.mark.parametrize("method", ["full", {"name": "lora", "dropout": 0.1}, "head"], ids=["full", "lora", "head"])
def test_micro_batches_change_nothing_though_dropout_is_on(tiny_base, method):
    whole = trained(learner_of(tiny_base, method))
    for size in (1, 5):
        assert apart(whole, trained(learner_of(tiny_base, method, micro_batch_size=size))) < 2e-5
    assert apart(whole, trained(learner_of(tiny_base, method, dropout=0.0))) > (1e-4 if method != "head" else -1)


@pytest.mark.parametrize("method", ["full", {"name": "lora", "dropout": 0.1}], ids=["full", "lora"])
def test_a_last_layer_for_first_tokens_alone_trains_as_the_whole_one(tiny_base, method, monkeypatch):
    found = {}
    for pooling in ("mean", "cls"):
        learner = learner_of(tiny_base, method)
        learner.model.pooling = pooling
        found[pooling] = trained(learner)
        assert ("last layer" in learner.chosen) == (pooling == "cls")
    monkeypatch.setattr(TunableModel, "narrows", False)
    whole = learner_of(tiny_base, method, micro_batch_size=5)
    whole.model.pooling = "cls"
    assert apart(found["cls"], trained(whole)) < 2e-5
    assert apart(found["cls"], found["mean"]) > 1e-4


def test_with_dropout_from_a_stream_micro_batches_would_change_it(tiny_base, monkeypatch):
    """The must-fail twin."""
    monkeypatch.setattr(dropping, "key_dropout", lambda body: None)
    torch.manual_seed(1)
    learner = learner_of(tiny_base)
    assert learner.chosen["micro-batches"] == dropping.BESIDE
    whole = trained(learner)
    torch.manual_seed(1)
    assert apart(whole, trained(learner_of(tiny_base, micro_batch_size=5))) > 1e-4


def test_the_cut_embedding_table_trains_as_the_whole_one(tiny_base, monkeypatch):
    cut = learner_of(tiny_base)
    assert cut.compact is not None
    assert cut.chosen["embedding"].endswith("the others only decay")
    used, base = cut.compact.used, cut.compact.whole[0].weight.detach().clone()
    found = trained(cut)
    monkeypatch.setattr(torch_learner, "compacted", lambda body, examples: None)
    whole = trained(learner_of(tiny_base))
    name = "body.embeddings.word_embeddings.weight"
    assert apart({n: w for n, w in found.items() if n != name}, {n: w for n, w in whole.items() if n != name}) < 1e-6
    assert float((found[name] - whole[name])[used].abs().max()) < 1e-6
    unused = torch.ones(len(base), dtype=torch.bool).index_fill(0, used, False)
    assert float((found[name][unused] - whole[name][unused]).abs().max()) < 1e-7
    moved = (whole[name][unused] - base[unused]).abs().max()
    assert float(moved) > 1e-7  # decay did something, so the comparison above means something
    assert float((whole[name][used] - base[used]).abs().max()) > 10 * float(moved)


def test_without_its_decay_the_cut_table_would_differ(tiny_base, monkeypatch):
    """The must-fail twin."""
    found = learner_of(tiny_base)
    used = found.compact.used
    for index in range(4):
        found.step(index)
        found.compact.left = 1.0
    found.average_left = 1.0
    with found.settled():
        weights = found.weights()
    found.load_weights(weights)
    monkeypatch.setattr(torch_learner, "compacted", lambda body, examples: None)
    name = "body.embeddings.word_embeddings.weight"
    unused = torch.ones(len(found.model.get_parameter(name)), dtype=torch.bool).index_fill(0, used, False)
    assert float((found.model.get_parameter(name).detach()[unused] - trained(learner_of(tiny_base))[name][unused]).abs().max()) > 1e-7


def test_tokens_that_no_training_row_holds_are_read_from_the_whole_table(tiny_base):
    learner = learner_of(tiny_base)
    rows = [{"text": "zebra quantum jazz"}, {"text": "refund please"}]
    with learner.settled() as specialist:
        before = specialist.predict(rows)
        weights = learner.weights()
    learner.load_weights(weights)
    after = learner._specialist.predict(rows)
    for a, b in zip(before, after, strict=True):
        assert a.scores == pytest.approx(b.scores, abs=1e-6)


@pytest.mark.usefixtures("any_length")
@pytest.mark.parametrize("method", [{"name": "full", "layers": 1}, {"name": "lora", "layers": 1}], ids=["full", "lora"])
def test_cached_layers_train_as_computed_ones(tiny_base, method, tmp_path):
    """With dropout on: below the first trained layer there is none either way."""
    computed = learner_of(tiny_base, method)
    assert "frozen layers" not in computed.chosen
    cached = learner_of(tiny_base, method, cache=tmp_path)
    assert "first 1 layers were computed once" in cached.chosen["frozen layers"]
    ran = []
    cached.model.body.get_submodule("encoder.layer.0.attention" if method["name"] == "full" else "base_model.model.encoder.layer.0.attention").register_forward_hook(lambda *_: ran.append(1))
    found = trained(cached)
    assert not ran  # the frozen layer did not run again
    assert apart(found, trained(computed)) < 1e-5
    again = learner_of(tiny_base, method, cache=tmp_path)
    assert "from an earlier run" in again.chosen["frozen layers"]
    assert apart(found, trained(again)) == 0
    assert apart(found, trained(learner_of(tiny_base, method, cache=tmp_path, dropout=0.0))) > 1e-4, "above it there is"


def test_a_changed_cache_is_computed_again(tiny_base, tmp_path):
    """The must-fail twin: a flipped byte must not be taken for the layers' answers."""
    method = {"name": "full", "layers": 1}
    learner_of(tiny_base, method, cache=tmp_path)
    (file,) = tmp_path.glob("layers-*/hidden.bin")
    content = bytearray(file.read_bytes())
    content[100] ^= 64
    file.write_bytes(content)
    assert "computed once" in learner_of(tiny_base, method, cache=tmp_path).chosen["frozen layers"]


def test_only_the_last_layers_and_the_head_train(tiny_base):
    learner = learner_of(tiny_base, {"name": "full", "layers": 1})
    assert {name.split(".")[2] + "." + name.split(".")[3] for name in learner.trained if name.startswith("body.encoder")} == {"layer.1"}
    assert all(name.startswith(("body.encoder.layer.1.", "head.")) for name in learner.trained)


def test_more_layers_than_there_are_is_refused(tiny_base):
    from attune.core.errors import PlugError

    body = resolve_base(str(tiny_base)).body()
    assert last_layers(body, 2) == ["encoder.layer.0", "encoder.layer.1"]
    with pytest.raises(PlugError, match="the base has 2 layers"):
        last_layers(body, 3)


def test_refit_learns_from_the_validation_rows_too(recipe_of, workspace):
    rows = make_rows(120)
    recipe = recipe_of("head", epochs=3)
    dataset = make_dataset(workspace, recipe, rows)
    notes = []
    checkpoint = finetune.run(recipe, workspace, dataset, Events(None, [lambda event: notes.append(event)]), run="r")
    assert "all 108 training and validation rows" in checkpoint.chosen["refit"]
    plain = finetune.run(recipe_of("head", epochs=3, refit=False), workspace, dataset, Events(), run="plain")
    assert "refit" not in plain.chosen
    assert plain.validation == checkpoint.validation  # the figure of the model before: it had not seen these rows
    a, b = (open_bundle(workspace.store.path(one.store_key)).model.head.weight for one in (checkpoint, plain))
    assert not torch.equal(a, b)
    again = finetune.run(recipe, workspace, dataset, Events(), run="once more")
    assert again.store_key == checkpoint.store_key


def again_with(recipe_of, workspace, listener=None, name="r", **train):
    """A run of few_shot, whose head is fitted at the end, that trains once more."""
    recipe = recipe_of("full", objective="few_shot", **{"epochs": 3, "average": 0, "refit": True, **train})
    dataset = make_dataset(workspace, recipe, make_rows(96))
    return finetune.run(recipe, workspace, dataset, Events(None, [listener] if listener else []), run=name)


def test_thresholds_are_those_of_a_finished_head(recipe_of, workspace):
    """Training once more takes them from the first model, whose head has to be as it would ship."""
    found = []
    for refit in (False, True):
        recipe = recipe_of("full", {"name": "text_classification", "multi_label": True}, "few_shot", epochs=3, average=0, refit=refit)
        dataset = make_dataset(workspace, recipe, make_rows(160, multi=True))
        checkpoint = finetune.run(recipe, workspace, dataset, Events(), run=f"refit {refit}")
        found.append(open_bundle(workspace.store.path(checkpoint.store_key)).signature["thresholds"])
    assert set(found[0]) != {0.5}
    assert found[0] == found[1]


def test_where_training_once_more_fails_the_first_model_is_kept_whole(recipe_of, workspace, monkeypatch):
    plain = again_with(recipe_of, workspace, name="plain", refit=False)
    train_again, step = Session._train_again, TorchLearner.step

    def unsteady(self, best):
        def fail(learner, index):
            raise Unsteady(index, "planted")

        monkeypatch.setattr(TorchLearner, "step", fail)
        found = train_again(self, best)
        monkeypatch.setattr(TorchLearner, "step", step)
        return found

    monkeypatch.setattr(Session, "_train_again", unsteady)
    kept = again_with(recipe_of, workspace, name="unsteady")
    assert "planted" in kept.chosen["refit"]
    assert "fitted once more" in kept.chosen["finish"]
    assert kept.store_key == plain.store_key

    def short_of_memory(self, best):
        def fail(learner, rows, index):
            raise MemoryError

        with monkeypatch.context() as patch:
            patch.setattr(FewShot, "each", fail)
            return train_again(self, best)

    monkeypatch.setattr(Session, "_train_again", short_of_memory)
    kept = again_with(recipe_of, workspace, name="short of memory")
    assert "needs more memory than there is" in kept.chosen["refit"]
    assert kept.store_key == plain.store_key

    def late(self, best):
        self.deadline = time.monotonic() - 1
        return train_again(self, best)

    monkeypatch.setattr(Session, "_train_again", late)
    kept = again_with(recipe_of, workspace, name="late")
    assert "longer than the budget" in kept.chosen["refit"]
    assert kept.store_key == plain.store_key


def test_a_rate_that_had_to_be_halved_is_halved_when_it_trains_once_more(recipe_of, workspace, monkeypatch):
    loss, calls, seen = FewShot.loss, [], []

    def poisoned(self, model, batch):
        total, items = loss(self, model, batch)
        calls.extend([1] if model.training else [])
        return total * (math.nan if model.training and 14 <= len(calls) <= 16 else 1), items

    monkeypatch.setattr(FewShot, "loss", poisoned)
    checkpoint = again_with(
        recipe_of, workspace, lambda event: seen.append(event["learning_rate"]) if (event["kind"], event["message"]) == ("progress", "refit") else None, scheduler="constant", warmup_ratio=0
    )
    assert "half the learning rate" in checkpoint.chosen["went back"]
    assert seen
    assert set(seen) == {1e-3}


@pytest.mark.usefixtures("any_length")
def test_neftune_is_the_same_in_micro_batches_and_changes_what_is_learned(tiny_base, tmp_path):
    """Lower layers that are frozen are then computed each time, because their answers are not the same twice."""
    way = {"name": "lora", "layers": 1}
    whole = trained(learner_of(tiny_base, way, neftune=5.0))
    assert apart(whole, trained(learner_of(tiny_base, way, neftune=5.0, micro_batch_size=5))) < 2e-5
    assert apart(whole, trained(learner_of(tiny_base, way))) > 1e-4
    noisy = learner_of(tiny_base, way, cache=tmp_path, neftune=5.0)
    assert "frozen layers" not in noisy.chosen
    assert "frozen layers" in learner_of(tiny_base, way, cache=tmp_path).chosen
    assert apart(whole, trained(noisy)) < 2e-5


def test_neftune_leaves_nothing_behind_and_has_no_effect_on_a_frozen_body(tiny_base):
    from attune.core.flat import network_of

    learner = learner_of(tiny_base, "full", neftune=5.0)
    trained(learner)
    assert not network_of(learner.model.body).get_input_embeddings()._forward_hooks
    still = learner_of(tiny_base, "head", neftune=5.0)
    assert "neftune" in still.keys.unread(), "which the run tells as a key without effect"


def test_what_four_bit_layers_answer_is_not_taken_for_what_whole_ones_answer(tiny_base, tmp_path):
    """The kept answers of frozen layers are those of the number format."""
    learner_of(tiny_base, {"name": "lora", "layers": 1}, cache=tmp_path)
    quantised = learner_of(tiny_base, {"name": "qlora", "layers": 1}, cache=tmp_path)
    assert "computed once" in quantised.chosen["frozen layers"]
    assert "from an earlier run" in learner_of(tiny_base, {"name": "qlora", "layers": 1}, cache=tmp_path).chosen["frozen layers"]


def test_factors_do_not_decay_towards_zero(tiny_base):
    learner = learner_of(tiny_base, "ia3")
    groups = [{p.shape for p in group["params"]} for group in learner.optimizer.param_groups if group["weight_decay"]]
    assert all(min(shape) > 1 for shapes in groups for shape in shapes)
