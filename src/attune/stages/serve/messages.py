"""Requests and answers as JSON: strict models, from which /openapi.json is made."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class PredictRequest(_Strict):
    """One item as `input`, or several as `inputs`."""

    input: str | dict[str, Any] | None = Field(None, description="one item: a text, or an object with the task's input fields")
    inputs: list[str | dict[str, Any]] | None = Field(None, description="several items, answered in order")
    top_k: int | None = Field(None, ge=1, description="give only the k largest probabilities")


class PredictionAnswer(BaseModel):
    """One answer."""

    request_id: str
    output: Any
    confidence: float | None
    probabilities: dict[str, float]
    logged: bool = Field(description="true: this request is committed to the log and takes feedback")


class PredictAnswer(BaseModel):
    """Answers and the release that really gave them."""

    release: str
    version: int
    predictions: list[PredictionAnswer]


class FeedbackRequest(_Strict):
    """The right answer for a request that was logged."""

    request_id: str = Field(max_length=40)
    answer: Any = Field(description="the right output")
    comment: str = Field("", max_length=2000)
    key: str | None = Field(None, min_length=1, max_length=100, description="sending the same key again stores nothing new; also as header Idempotency-Key")
    new_label: bool = Field(False, description="the answer is a class that the release does not know yet")


class FeedbackAnswer(BaseModel):
    """What was stored."""

    request_id: str
    key: str
    stored: bool = Field(description="false: this key brought the same answer before")
    replaced: bool = Field(description="true: an earlier answer to this request counted until now; from here on this one does")


class ProblemDocument(BaseModel):
    """Every error looks like this (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    field: str | None = None
    fix: str | None = None
    errors: list[dict[str, str]] | None = None
