"""What scikit-learn and its users expect of an estimator: parameters, names of columns, containers, tags, a repr.

Scikit-learn is imported only where it asks itself, or where a notebook shows the model and it is there.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from contextlib import suppress
from dataclasses import fields
from typing import Any

import numpy as np

from minivae.data import frames
from minivae.data.files import DataError
from minivae.likelihoods import REAL, domains


class NotFittedError(ValueError, AttributeError):
    """The model has no parameters yet. Where scikit-learn is imported, it is scikit-learn's error of this name too."""

    def __reduce__(self) -> Any:
        return NotFittedError, self.args


def string_names(X: Any) -> np.ndarray | None:
    """The names of a frame's columns [D] as objects, or None where X has none that are strings.

    Raises TypeError where only some are, as scikit-learn does.
    """
    labels = frames.labels(X) if frames.library(X) else []
    strings = [isinstance(label, str) for label in labels]
    if any(strings) and not all(strings):
        raise TypeError(
            "Feature names are only supported if all input features have string names, and some of this frame's are none; "
            "rename them: X.columns = X.columns.astype(str)"
        )
    return np.array(labels, object) if any(strings) else None


def match_names(seen: np.ndarray | None, known: np.ndarray | None, name: str = "X") -> None:
    """Raise DataError where both have names and they differ; a UserWarning where one has none. Scikit-learn's words."""
    if seen is None or known is None:
        if seen is not known:
            told = "does not have valid feature names, but VAE was fitted with feature names"
            told = told if seen is None else "has feature names, but VAE was fitted without feature names"
            warnings.warn(f"{name} {told}", UserWarning, stacklevel=4)
    elif not np.array_equal(seen, known):
        told = "The feature names should match those that were passed during fit.\n"
        parts = {
            "unseen at fit time": set(seen) - set(known),
            "seen at fit time, yet now missing": set(known) - set(seen),
        }
        for what, some in parts.items():
            listed = [f"- {label}\n" for label in sorted(some)]
            told += f"Feature names {what}:\n{''.join(listed[:5])}{'- ...' if listed[5:] else ''}\n" if some else ""
        if not any(parts.values()):
            told += "Feature names must be in the same order as they were in fit.\n"
        raise DataError(f"{told}Pass {name}[list(vae.feature_names_in_)]")


class Conventions:
    """The part of VAE that has nothing to do with what it computes."""

    n_features_in_: int
    feature_names_in_: np.ndarray  # only where fit was given a frame whose columns' names are strings
    _sklearn_auto_wrap_output_keys = frozenset({"transform"})  # tells scikit-learn that set_output is heeded
    _sklearn_output_config: dict[str, str]  # the name under which its clone looks for it

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]  # VAE is a dataclass

    def set_params(self, **params: Any) -> Any:
        """Change constructor arguments; an unknown name changes nothing. A fitted model follows them when trained again."""
        known = self.get_params()
        for name in params:
            if name not in known:
                raise ValueError(f"VAE has no parameter {name!r}; it has {', '.join(known)}")
        vars(self).update(params)
        return self

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """The names of transform's columns: vae0, vae1 and so on. input_features, if given, must be those of the fit."""
        self._require_fit()
        known = getattr(self, "feature_names_in_", None)
        if input_features is not None and known is not None and list(input_features) != list(known):
            raise ValueError("input_features is not equal to feature_names_in_; pass those, or none")
        if input_features is not None and len(input_features) != self.n_features_in_:
            raise ValueError(
                f"input_features should have length equal to number of features ({self.n_features_in_}), "
                f"got {len(input_features)}"
            )
        latent_dim = self.network_.arch.latent_dim  # type: ignore[attr-defined]
        return np.array([f"{type(self).__name__.lower()}{j}" for j in range(latent_dim)], object)

    def set_output(self, *, transform: str | None = None) -> Any:
        """What transform returns: "default" a NumPy array, "pandas" or "polars" a frame; None leaves it as it is."""
        if transform not in (None, "default", "pandas", "polars"):
            raise ValueError(f"set_output knows 'default', 'pandas' and 'polars', not {transform!r}")
        if transform is not None:
            self._sklearn_output_config = {"transform": transform}
        return self

    def _contained(self, Z: np.ndarray, X: Any) -> Any:
        """Z as set_output, or else sklearn.set_config(transform_output=...), wants it; pandas keeps the index of X."""
        globally: dict[str, Any] = getattr(sys.modules.get("sklearn"), "get_config", dict)()
        kind = getattr(self, "_sklearn_output_config", globally | {"transform": globally.get("transform_output")})[
            "transform"
        ]
        if kind not in frames.LIBRARIES:
            return Z
        DataFrame, names = importlib.import_module(kind).DataFrame, self.get_feature_names_out().tolist()
        if kind == "polars":
            return DataFrame(Z, schema=names, orient="row")
        return DataFrame(Z, columns=names, index=X.index if frames.library(X) == "pandas" else None, copy=False)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "network_")

    def _require_fit(self) -> None:
        if not self.__sklearn_is_fitted__():
            theirs = getattr(sys.modules.get("sklearn.exceptions"), "NotFittedError", ValueError)
            raise type("NotFittedError", (NotFittedError, theirs), {})("this VAE is not fitted yet; call fit(X) first")

    def __sklearn_tags__(self) -> Any:
        """Asked for by scikit-learn itself, which is then there to import."""
        from sklearn.utils import InputTags, Tags, TargetTags, TransformerTags

        given, positive = self.get_params(), False
        with suppress(ValueError):  # of an unknown likelihood, which fit names
            positive = domains(given["likelihood"]) != {REAL} and not given.get("standardize")
        returned = TransformerTags(preserves_dtype=[getattr(given["dtype"], "__name__", str(given["dtype"]))])
        read = InputTags(sparse=True, positive_only=positive, allow_nan=given["missing"] != "error")
        return Tags(None, TargetTags(required=bool(given["conditional"])), returned, input_tags=read)

    def __repr__(self) -> str:
        values = [(f, repr(getattr(self, f.name))) for f in fields(self)]  # type: ignore[arg-type]
        changed = [f"{f.name}={value}" for f, value in values if value != repr(f.default)]
        return f"VAE({', '.join(changed)})"

    def _repr_html_(self) -> str:
        """For notebooks: as scikit-learn shows its estimators, or the repr."""
        try:
            from sklearn.utils import estimator_html_repr
        except ImportError:
            import html

            return f"<pre>{html.escape(repr(self))}</pre>"
        return str(estimator_html_repr(self))
