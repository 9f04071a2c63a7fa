"""Answers texts with the model in this folder. Needs torch, transformers, safetensors and, for an adapter, peft; nothing else.

Reads JSON lines ({"text": "..."} or a plain JSON string) from standard input and writes one JSON line per answer:

    echo '{"text": "where is my parcel"}' | python predict.py
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).resolve().parent


class Model:
    """The tokenizer, the network and (for labels) the head in this folder."""

    def __init__(self) -> None:
        self.facts = json.loads((HERE / "answering.json").read_text(encoding="utf-8"))
        self.tokenizer = AutoTokenizer.from_pretrained(HERE, local_files_only=True)
        auto = AutoModelForCausalLM if self.facts["kind"] == "generation" else AutoModel
        options = {"dtype": torch.float32, "attn_implementation": "eager", "use_safetensors": True}
        if self.facts["adapter"]:
            from peft import PeftConfig, PeftModel

            config = PeftConfig.from_pretrained(HERE)
            base = HERE / "base" if (HERE / "base").is_dir() else config.base_model_name_or_path
            self.body = PeftModel.from_pretrained(auto.from_pretrained(base, revision=config.revision or "main", **options), HERE)
        else:
            self.body = auto.from_pretrained(HERE, local_files_only=True, **options)
        self.body.eval()
        self.head = load_file(HERE / "head.safetensors") if (HERE / "head.safetensors").is_file() else None

    def features(self, text: str) -> torch.Tensor:
        """The pooled vector of a text, float32 [1, hidden]."""
        batch = self.tokenizer(text, truncation=True, max_length=self.facts["max_length"], return_tensors="pt")
        hidden = self.body(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        if self.facts["pooling"] == "cls":
            return hidden[:, 0]
        return hidden[:, -1] if self.facts["pooling"] == "last" else hidden.mean(1)

    def classification(self, text: str) -> dict:
        """Label (or labels), confidence and the probability of each label."""
        logits = torch.nn.functional.linear(self.features(text), self.head["weight"], self.head["bias"])[0]
        labels = [self.body.config.id2label[i] for i in range(len(logits))] if not self.facts["adapter"] else self.facts["signature"]["labels"]
        if self.facts["signature"].get("multi_label"):
            scores = logits.sigmoid().tolist()
            output = [label for label, p, least in zip(labels, scores, self.facts["signature"]["thresholds"], strict=True) if p >= least]
            confidence = min(max(p, 1 - p) for p in scores)
        else:
            scores = logits.softmax(-1).tolist()
            output = labels[int(logits.argmax())]
            confidence = max(scores)
        return {"output": output, "confidence": confidence, "probabilities": dict(zip(labels, scores, strict=True))}

    def answer(self, text: str) -> dict:
        """One answer."""
        with torch.inference_mode():
            return getattr(self, self.facts["kind"])(text)


def main() -> None:
    """Answer every line of standard input."""
    model = Model()
    for line in sys.stdin:
        if line.strip():
            row = json.loads(line)
            text = row if isinstance(row, str) else row[model.facts["input"]]
            sys.stdout.write(json.dumps(model.answer(text), ensure_ascii=False) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
