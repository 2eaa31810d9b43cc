"""Encoding of pieces of text that are joined as token ids."""

from transformers import PreTrainedTokenizerBase

from corellarec.base.errors import ModelError


class Text:
    """Encodes pieces of text on their own, so that pieces can be joined in any order.

    Args:
        tokenizer: The model's.

    Example:
        >>> text = Text(tokenizer)  # doctest: +SKIP
        >>> text("Heat (1995) ->") + text(" Yes")  # doctest: +SKIP
        [9659, 330, 33, 41, 41, 37, 25, 21083, 3771]
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer

    def __call__(self, text: str, *, start: bool = False) -> list[int]:
        """Token ids of ``text``, in which special tokens are plain text.

        Args:
            text: Any text.
            start: Whether the model's tokens for the beginning of a sequence come first.
        """
        ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return [*self.tokenizer("")["input_ids"], *ids] if start else list(ids)

    def after(self, before: str, text: str) -> list[int]:
        """Token ids that ``text`` adds when it follows ``before``.

        Raises:
            ModelError: If the tokenizer merges the two.
        """
        prefix, whole = self(before), self(before + text)
        if whole[: len(prefix)] != prefix:
            raise ModelError(
                f"the tokenizer merges {before!r} and {text!r}, which must be encoded apart: "
                "choose another model, or change the template"
            )
        return whole[len(prefix) :]

    def answer(self, before: str, text: str) -> int:
        """The single token that ``text`` is after ``before``.

        Raises:
            ModelError: If it is several tokens there.
        """
        ids = self.after(before, text)
        if len(ids) != 1:
            raise ModelError(
                f"the tokenizer splits the answer {text!r} into {len(ids)} tokens; one is needed: "
                "change the template's answers"
            )
        return ids[0]
