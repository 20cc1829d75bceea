"""x y z."""
from typing import Any
def differences(config: Any, processor: Any) -> list[str]:
    return []
def write_serving_page(*a: Any) -> None:
    pass
