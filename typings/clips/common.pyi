from enum import IntEnum
from typing import Any

class CLIPSError(RuntimeError): ...

class CLIPSType(IntEnum):
    FLOAT = 0
    INTEGER = 1
    SYMBOL = 2
    STRING = 3
    MULTIFIELD = 4
    EXTERNAL_ADDRESS = 5
    FACT_ADDRESS = 6
    INSTANCE_ADDRESS = 7
    INSTANCE_NAME = 8
    VOID = 9

def environment_builder(env: Any, name: str) -> Any: ...
def environment_modifier(env: Any, name: str) -> Any: ...
