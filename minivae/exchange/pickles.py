"""What a pickle of torch.save describes: tensors, dicts, lists and plain values, by a machine that can do nothing else.

It is gone through opcode by opcode, and nothing that it names is imported or called: a device, a Namespace, a path beside
the tensors of a checkpoint becomes a note of its name, which keeps nothing of what is put into it.
"""

from __future__ import annotations

import pickletools
from typing import Any, BinaryIO, NamedTuple

from minivae.storage.archives import Unreadable

DICTS = ("collections OrderedDict", "collections defaultdict")
TENSORS = ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor")
PARAMETERS = ("torch._utils _rebuild_parameter", "torch._utils _rebuild_parameter_with_state")
EMPTY: dict[str, Any] = {"NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False}
EMPTY |= {"EMPTY_TUPLE": tuple, "EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_SET": lambda: Other("set")}


class Storage(NamedTuple):
    kind: str  # such as "torch FloatStorage"
    key: str  # its name in the file
    size: int


class Tensor(NamedTuple):
    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Other(NamedTuple):
    name: str  # of a class or function: itself, or what it would have made


def unpickled(text: BinaryIO, storages: dict[str, Storage]) -> Any:
    """What the next pickle describes; storages: those that it names. Raises Unreadable, or what pickletools raises."""
    stack, marks, memo = list[Any](), list[int](), dict[int, Any]()

    def above(start: int) -> list[Any]:
        """What lies on the stack from there on, taken off."""
        items = stack[start:]
        del stack[start:]
        return items

    value: Any
    for op, value, _ in pickletools.genops(text):
        name = op.name
        if name in EMPTY:
            stack.append(EMPTY[name]())
        elif name == "MARK":
            marks.append(len(stack))
        elif name in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
            memo[len(memo) if value is None else value] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[value])
        elif name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(tuple(above(marks.pop() if name == "TUPLE" else -int(name[-1]))))
        elif name in ("APPEND", "APPENDS", "ADDITEMS"):
            items = above(-1 if name == "APPEND" else marks.pop())
            if isinstance(stack[-1], list):
                stack[-1].extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = above(-2 if name == "SETITEM" else marks.pop())
            if isinstance(stack[-1], dict):  # under a text or a number, of which no hash is deep
                pairs = zip(items[::2], items[1::2], strict=True)
                stack[-1].update((key, item) for key, item in pairs if isinstance(key, str | int))
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            module, word = above(-2) if name == "STACK_GLOBAL" else value.split(" ", 1)
            stack.append(Other(f"{module[:80]} {word[:80]}"))
        elif name == "BINPERSID":
            _, kind, key, _, size, *view = stack.pop()
            if not isinstance(kind, Other) or not isinstance(key, str) or view not in ([], [None]):
                raise Unreadable("it describes a storage as torch.save does not")
            stack.append(storages.setdefault(key, Storage(kind.name, key, size)))
        elif name in ("REDUCE", "NEWOBJ", "NEWOBJ_EX"):
            made, *arguments = above(-3 if name == "NEWOBJ_EX" else -2)
            stack.append(_made(made, arguments[0]))
        elif name in ("BUILD", "POP"):  # attributes: of a dict, the versions of its modules
            stack.pop()
        elif name in ("POP_MARK", "FROZENSET"):
            above(marks.pop())
            stack.extend([Other("set")] * (name == "FROZENSET"))
        elif name == "STOP":
            return stack.pop()
        elif value is not None and not op.stack_before and op.stack_after:  # a text or a number
            stack.append(value)
        elif name not in ("PROTO", "FRAME"):
            raise Unreadable(f"its pickle has the opcode {name}, which torch.save does not write")
    raise Unreadable("its pickle is cut short")


def _made(made: Any, arguments: Any) -> Any:
    """What a call would give: a dict, a tensor, or a note of what else."""
    if not isinstance(made, Other):
        raise Unreadable("it calls what is neither a class nor a function")
    if made.name in TENSORS and isinstance(arguments[0], Storage):
        return Tensor(*arguments[:4])
    parameter = made.name in PARAMETERS and isinstance(arguments[0], Tensor)
    return {} if made.name in DICTS else arguments[0] if parameter else made
