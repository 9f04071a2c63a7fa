"""Offline by construction: the switches that keep third-party packages from calling out, set before any of them is imported."""

import os

SWITCHES = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_EVALUATE_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TLDEXTRACT_PUBLIC_SUFFIX_LIST_URLS": "",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Environment variables and values; telemetry stays off always, the hub is opened only by ATTUNE_ONLINE=1."""

_HUB = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE")


def online_allowed() -> bool:
    """True when the user asked for the hub with ATTUNE_ONLINE=1 (needed once, to pull a base model)."""
    return os.environ.get("ATTUNE_ONLINE", "") == "1"


def apply() -> None:
    """Set every switch in this process's environment; a hub switch is left out when the user allowed the hub."""
    for name, value in SWITCHES.items():
        if name in _HUB and online_allowed():
            os.environ.pop(name, None)
            continue
        os.environ[name] = value
