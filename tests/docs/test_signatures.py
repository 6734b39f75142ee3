"""Public signatures: at most ten keywords, and the same defaults everywhere."""

from __future__ import annotations

import inspect
from dataclasses import is_dataclass

import pytorch_lightning
import transformers

import frugalkd
from frugalkd import Sampling, SelfRegulation, Training, objectives, policies
from frugalkd.experiments.comparison import demo
from frugalkd.experiments.recipes.schema import Recipe, StudentRole
from frugalkd.experiments.runs.chain import chain
from frugalkd.experiments.scoring import score
from frugalkd.integrations.lightning import FrugalCallback, FrugalLoader
from frugalkd.integrations.transformers import FrugalTrainer
from toys import images, net

SHORT = Training(epochs=1, batch_size=16)


def test_no_signature_has_more_than_ten_keywords():
    """Dataclasses of settings have at most sixteen."""
    public = [FrugalCallback, FrugalLoader, FrugalTrainer, demo, chain, score]
    public += [getattr(frugalkd, name) for name in frugalkd.__all__]
    public += [getattr(policies, name) for name in policies.__all__]
    public += [getattr(objectives, name) for name in objectives.__all__]
    long, counted = [], 0
    for thing in public:
        if not (inspect.isclass(thing) or inspect.isroutine(thing)):
            continue
        calls = {"": thing}
        if inspect.isclass(thing):
            own = [name for name in vars(thing) if name[0] != "_"]  # a classmethod is not callable
            calls |= {k: v for k in own if callable(v := getattr(thing, k))}
        for name, call in calls.items():
            if call is frugalkd.FrugalKDError:
                continue
            most = 16 if name == "" and is_dataclass(thing) else 10
            keywords = [
                parameter.name
                for parameter in inspect.signature(call).parameters.values()
                if parameter.kind is parameter.KEYWORD_ONLY
                or parameter.default is not parameter.empty
            ]
            counted += len(keywords)
            if len(keywords) > most:
                long.append((thing, name, keywords))
    assert counted > 150
    assert long == []


def test_one_default_everywhere(tmp_path):
    """Mode regulated without a budget, on the best device that there is."""
    default = SelfRegulation()
    assert default.budget is None
    for train in (frugalkd.train_teacher, frugalkd.distill, frugalkd.train_head):
        parameters = inspect.signature(train).parameters
        assert parameters["sampling"].default is None  # which is Sampling()
        assert parameters["device"].default == "auto"
    fields = StudentRole.model_fields
    assert fields["mode"].default == "regulated"
    assert fields["regulation"].get_default(call_default_factory=True) == default
    assert Recipe.model_fields["device"].default == "auto"
    assert Sampling().chosen_policy == default
    assert Sampling(mode="regulated").chosen_policy == default
    config = transformers.BertConfig(vocab_size=9, hidden_size=8, num_attention_heads=1)
    model = transformers.BertForSequenceClassification(config)
    trainer = FrugalTrainer(model, transformers.TrainingArguments(str(tmp_path), report_to=[]))
    assert FrugalCallback().policy == trainer.policy == default
    student, data = net(), images()
    run = frugalkd.distill(student, data, teacher=net(1), training=SHORT)
    assert run.ledger.about["policy"] == str(default)
    device = next(student.parameters()).device.type
    assert trainer.args.device.type == device
    plain = pytorch_lightning.Trainer(logger=False, enable_checkpointing=False)
    assert plain.strategy.root_device.type == device
