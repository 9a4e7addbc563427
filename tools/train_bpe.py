"""Train the small text vocabulary on everything the tabletop can say, and write it into the package."""

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from ideomotor.cli.names import tasks
from ideomotor.sim.objects import COLOURS, SHAPES

VOCABULARY = 512
OUT = Path(__file__).parents[1] / "src" / "ideomotor" / "assets" / "tabletop_bpe.json"


def corpus() -> list[str]:
    """Return every training sentence, and every name."""
    names = [f"{colour.name} {shape.name}" for colour in COLOURS for shape in SHAPES]
    sentences = [
        template.format(colour=colour.name, shape=shape.name, destination=f"{other.name} plate")
        for task in tasks().values()
        for template in task.train_templates
        for colour in COLOURS
        for shape in SHAPES
        for other in COLOURS
    ]
    return names + sentences


if __name__ == "__main__":
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    longest = max(len(tokenizer.encode(sentence).ids) for sentence in corpus())
    print(f"{OUT}: {tokenizer.get_vocab_size()} ids, longest training sentence {longest} tokens")
