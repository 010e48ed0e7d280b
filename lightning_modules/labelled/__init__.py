"""Parts that the tasks of classes and tokens share: their base, `module`; and `pooling`, a sequence as one
vector."""

from lightning_modules.labelled.module import LabelledModule, LabelOutput

__all__ = ["LabelOutput", "LabelledModule"]
