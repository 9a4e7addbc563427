"""A run that starts from somebody's language model: its sizes in the place of the preset's, and its tokenizer.

The last ids of its vocabulary become action bins, those before them answers, as OpenVLA does with Llama's (arXiv 2406.09246).
The tokenizer loses these ids, so that no text can mean an action.
"""

from dataclasses import replace
from pathlib import Path

from ideomotor.core.errors import UserError
from ideomotor.model.config import LanguageConfig, NetworkConfig, SlotGroup
from ideomotor.tokenize.shorten import shorten
from ideomotor.tokenize.text import TextTokenizer


def choose_language(sizes: NetworkConfig, language: str) -> tuple[NetworkConfig, TextTokenizer]:
    """Return the network around the language model in a file or folder, and its tokenizer; "": preset and shipped one.

    Raises:
        UserError: the language model cannot be used.
    """
    if not language:
        return sizes, TextTokenizer.shipped()
    from ideomotor.model.language_weights import open_language  # torch; loader workers import this module without

    source = open_language(Path(language))
    sizes = around(sizes, source.config(), language)
    text = shorten(source.tokenizer(), text_ids(sizes), f"the tokenizer of {language}")
    return sizes, TextTokenizer(text, f"the tokenizer of {language}")


def around(sizes: NetworkConfig, language: LanguageConfig, where: str) -> NetworkConfig:
    """Return the network with another language model, whose last ids are the answers' and the actions' bins.

    Raises:
        UserError: there are not enough ids.
    """
    first = language.vocabulary - sizes.head.bins
    head = replace(sizes.head, first_id=first)
    answers: list[SlotGroup] = []
    for group in reversed(sizes.answers):
        first -= group.bins
        answers.append(replace(group, first_id=first))
    if first < 1:
        raise UserError(
            f"{where} knows {language.vocabulary} ids, and {language.vocabulary - first} go to actions and answers;"
            " none is left for texts: take a language model with a larger vocabulary"
        )
    return replace(sizes, language=language, head=head, answers=tuple(reversed(answers)))


def text_ids(network: NetworkConfig) -> int:
    """Return how many ids are left for texts; answers and actions take those from there on."""
    return min([network.head.first_id, *(group.first_id for group in network.answers)])
