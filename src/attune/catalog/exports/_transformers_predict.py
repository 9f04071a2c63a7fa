"""Answers texts with the model in this folder. Needs torch, transformers, safetensors and, for an adapter, peft; nothing else.

Reads JSON lines (an object with the input's name, or a plain JSON string) from standard input and writes one JSON line per answer:

    echo '"where is my parcel"' | python predict.py
"""

import json
import sys
from bisect import bisect_left
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

HERE = Path(__file__).resolve().parent
CHARACTERS = 200
"""Of a text this many characters per token are read at most, so that a text of megabytes does not stall the tokenizer."""
NEEDED = 20
"""Characters that hold at least one token."""


class Model:
    """The tokenizer, the network and (for labels) the head in this folder."""

    def __init__(self) -> None:
        self.facts = json.loads((HERE / "answering.json").read_text(encoding="utf-8"))
        self.tokenizer: Any = AutoTokenizer.from_pretrained(HERE, local_files_only=True)
        auto: Any = AutoModelForCausalLM if self.facts["kind"] == "generation" else AutoModel
        options: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "eager", "use_safetensors": True}
        self.body: Any
        if self.facts["adapter"]:
            from peft import PeftConfig, PeftModel

            config = PeftConfig.from_pretrained(str(HERE))
            base = HERE / "base" if (HERE / "base").is_dir() else config.base_model_name_or_path
            self.body = PeftModel.from_pretrained(auto.from_pretrained(base, revision=config.revision or "main", **options), HERE)
        else:
            self.body = auto.from_pretrained(HERE, local_files_only=True, **options)
        self.body.eval()
        self.head = load_file(HERE / "head.safetensors") if (HERE / "head.safetensors").is_file() else {}

    def pooled(self, text: str) -> Any:
        """The pooled vector of a text, float32 [hidden]."""
        text = text[: self.facts["max_length"] * CHARACTERS]
        return self.vector(self.tokenizer(text, truncation=True, max_length=self.facts["max_length"])["input_ids"])

    def vector(self, ids: list[int]) -> Any:
        """The pooled vector of token ids, float32 [hidden]."""
        tokens = torch.tensor([ids])
        hidden = self.body(input_ids=tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state[0]
        return {"cls": hidden[0], "last": hidden[-1], "mean": hidden.mean(0)}[self.facts["pooling"]]

    def classification(self, text: str) -> dict[str, Any]:
        """Label (or labels), confidence and the probability of each label."""
        logits = torch.nn.functional.linear(self.pooled(text), self.head["weight"], self.head["bias"])
        signature = self.facts["signature"]
        labels = signature["labels"] if self.facts["adapter"] else [self.body.config.id2label[i] for i in range(len(logits))]
        scores = (logits.sigmoid() if signature["multi_label"] else logits.softmax(-1)).tolist()
        if signature["multi_label"]:
            output: Any = [label for label, p, least in zip(labels, scores, signature["thresholds"], strict=True) if p >= least]
            confidence = min(max(p, 1 - p) for p in scores)
        else:
            output, confidence = labels[int(logits.argmax())], max(scores)
        return {"output": output, "confidence": confidence, "probabilities": dict(zip(labels, scores, strict=True))}

    def vectors(self, text: str) -> dict[str, Any]:
        """The text's vector."""
        vector = self.pooled(text)
        if self.facts["task"].get("normalise"):
            vector = vector / vector.norm().clamp(min=1e-12)
        return {"output": vector.tolist()}

    def score(self, asked: dict[str, Any]) -> dict[str, Any]:
        """How good an answer is: asked with a prompt (a text or messages) and a completion."""
        messages, answer, limit = messages_of(asked["prompt"]), asked["completion"], self.facts["max_length"]
        if "chat_template" in self.facts:
            ids = self.answered(shortened(self.tokenizer, messages, None, limit, lambda some: len(self.answered(some, answer))), answer)
            lead = ids[:1] if ids[0] == self.tokenizer.bos_token_id and limit > 1 else []
            ids = ids if len(ids) <= limit else lead + ids[len(ids) - limit + len(lead) :]
        else:
            messages = shortened(self.tokenizer, messages, None, limit, lambda some: len(self.tokenizer(plain(some), answer)["input_ids"]))
            ids, own = self.tokenizer(plain(messages), answer)["input_ids"], len(self.tokenizer(plain(messages), add_special_tokens=False)["input_ids"])
            begin, drop = int(ids[0] in self.tokenizer.all_special_ids), min(max(len(ids) - limit, 0), own)
            ids = ids[:begin] + ids[begin + drop :]
            ids = ids if len(ids) <= limit else [*ids[: limit - 1], ids[-1]]
        return {"output": float(torch.nn.functional.linear(self.vector(ids), self.head["weight"])[0])}

    def answered(self, messages: list[dict[str, Any]], answer: str) -> list[int]:
        """Token ids of a conversation with its answer, up to the answer's end token."""
        before, text = self.rendered(messages, to_answer=True), self.rendered([*messages, {"role": "assistant", "content": answer}], to_answer=False)
        found = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        inside = [i for i, (begin, end) in enumerate(found["offset_mapping"]) if begin >= len(before) and end > begin]
        ends = [i for i in inside if found["input_ids"][i] in self.facts["stop_ids"]]
        ids: list[int] = found["input_ids"][: (ends or inside)[-1] + 1] + ([] if ends else self.facts["stop_ids"][:1])
        return ids

    def asked(self, messages: list[dict[str, Any]], tools: Any) -> list[int]:
        """Token ids of a conversation up to where the answer begins."""
        text = self.rendered(messages, to_answer=True, tools=tools)
        if len(text) > self.facts["max_length"] * CHARACTERS:
            begin = self.tokenizer.bos_token or ""
            text = (begin if text.startswith(begin) else "") + text[-self.facts["max_length"] * CHARACTERS :]
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def rendered(self, messages: list[dict[str, Any]], *, to_answer: bool, tools: Any = None) -> str:
        """A conversation through the chat template that the model was tuned with; texts of role segment have none."""
        if all(m["role"] == "segment" for m in messages):
            plain, begin = "".join(m["content"] for m in messages), self.tokenizer.bos_token or ""
            return plain if plain.startswith(begin) else begin + plain
        template = self.facts["chat_template"]
        turns = [turn_of(m, "tool_calls" in template) for m in messages]
        if tools and "tools" not in template:  # it has no place for functions: they stand in the system's turn
            said = "Functions that may be called:\n" + "\n".join(json.dumps(one, ensure_ascii=False) for one in tools)
            system = turns.pop(0)["content"] + "\n\n" if turns[0]["role"] == "system" else ""
            turns, tools = [{"role": "system", "content": system + said}, *turns], None
        text: str = self.tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False, add_generation_prompt=to_answer, **({"tools": tools} if tools else {}))
        return text

    def generation(self, asked: Any) -> dict[str, Any]:
        """The greedy answer to a text, to a list of messages, or to an object with either as prompt and, where functions may be called, tools."""
        given = asked if isinstance(asked, dict) else {"prompt": asked}
        messages, tools = messages_of(given["prompt"]), given.get("tools")
        longest, room = self.facts["task"]["max_new_tokens"], getattr(self.body.config, "max_position_embeddings", None) or 1 << 30
        limit = min(self.facts["max_length"], room - longest)
        ids = self.asked(shortened(self.tokenizer, messages, tools, limit, lambda some: len(self.asked(some, tools))), tools)
        if len(ids) > limit:  # the oldest goes, a leading begin token stays
            lead = ids[:1] if ids[0] == self.tokenizer.bos_token_id and limit > 1 else []
            ids = lead + ids[len(ids) - limit + len(lead) :]
        pad = self.tokenizer.pad_token_id or 0
        settings: Any = GenerationConfig(max_new_tokens=longest, do_sample=False, num_beams=1, eos_token_id=self.facts["stop_ids"], pad_token_id=pad)  # type: ignore[no-untyped-call]
        tokens = torch.tensor([ids])
        found = self.body.generate(input_ids=tokens, attention_mask=torch.ones_like(tokens), generation_config=settings)[0, len(ids) :].tolist()
        end = next((i for i, token in enumerate(found) if token in self.facts["stop_ids"]), len(found))
        return {"output": self.tokenizer.decode(found[:end], skip_special_tokens=True).strip()}

    def answer(self, asked: Any) -> dict[str, Any]:
        """One answer."""
        with torch.inference_mode():
            found: dict[str, Any] = getattr(self, self.facts["kind"])(asked)
        return found


def messages_of(prompt: Any) -> list[dict[str, Any]]:
    """A text as the user's turn, or messages."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def plain(messages: list[dict[str, Any]]) -> str:
    """A conversation as plain text."""
    return str(messages[0]["content"]) if len(messages) == 1 else "\n".join(f"{m['role'].capitalize()}: {m['content']}" for m in messages)


def shortened(tokenizer: Any, messages: list[dict[str, Any]], tools: Any, limit: int, size: Callable[[list[dict[str, Any]]], int]) -> list[dict[str, Any]]:
    """As much of a conversation as the tuned model reads of it: what the system says stays, and so do the functions; the conversation goes on from a later
    user's turn, else from the last one and the last steps of the assistant behind it; a last turn of the user's that is too long loses its beginning. As it
    is where nothing has to stay, or nothing fits."""
    roles = [m["role"] for m in messages]
    if not ({"system", "tool"} & {*roles} or (tools and "user" in roles)) or size(messages) <= limit:
        return messages
    system = messages[: int(roles[0] == "system")]
    users = [number for number, role in enumerate(roles) if role == "user"]
    steps = [number for number, role in enumerate(roles) if role == "assistant" and (not users or number > users[-1])]
    begins = [(system, number) for number in users if number > len(system)] + [([*system, *(messages[at] for at in users[-1:])], number) for number in steps[1:]]
    place = bisect_left(begins, True, key=lambda one: size([*one[0], *messages[one[1] :]]) <= limit)
    head, begin = begins[min(place, len(begins) - 1)] if begins else ([], 0)
    kept = [*head, *messages[begin:]]
    if place < len(begins) or kept[-1]["role"] != "user":
        return kept if place < len(begins) else messages
    text, lost = kept[-1]["content"], 0
    begin = max(len(text) - limit * NEEDED, 0)
    text = text[next((at for at in range(begin, min(begin + 200, len(text))) if begin and text[at - 1].isspace()), begin) :]
    places = [first for first, _ in tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]] or [0]
    for again in range(8):
        kept = [*kept[:-1], {**kept[-1], "content": text[places[lost] :]}]
        over = size(kept) - limit
        if over <= 0 or lost == len(places) - 1:
            break
        lost = min(lost + (over << again), len(places) - 1) if again < 6 else len(places) - 1
    return messages if over > 0 else kept


def turn_of(message: dict[str, Any], knows_calls: bool) -> dict[str, Any]:
    """A message as the chat template reads it; calls of functions are written into the text for a template without a place for them."""
    turn: dict[str, Any] = {name: message[name] for name in ("role", "content", "name", "tool_call_id") if name in message}
    calls = [one.get("function", one) for one in message.get("tool_calls") or []]
    calls = [{"name": one["name"], "arguments": json.loads(one["arguments"] or "{}") if isinstance(one["arguments"], str) else one["arguments"]} for one in calls]
    if not calls:
        return turn
    if knows_calls:
        return {**turn, "content": turn.get("content") or "", "tool_calls": [{"type": "function", "function": one} for one in calls]}
    text = turn.get("content") or ""
    blocks = [f"<tool_call>\n{json.dumps(one, ensure_ascii=False)}\n</tool_call>" for one in calls]
    return {**turn, "content": "\n".join([*([text] if text.strip() else []), *blocks])}


def main() -> None:
    """Answer every line of standard input."""
    model = Model()
    for line in sys.stdin:
        if line.strip():
            row = json.loads(line)
            inputs, kind = model.facts["inputs"], model.facts["kind"]
            asked = row[inputs[0]] if isinstance(row, dict) and kind not in ("generation", "score") else row
            sys.stdout.write(json.dumps(model.answer(asked), ensure_ascii=False) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
