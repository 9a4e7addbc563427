"""Networks by name: sizes, nothing else."""

from ideomotor.model.config import (
    CameraTokens,
    ConvStem,
    DiscreteHead,
    LanguageConfig,
    NetworkConfig,
    SlotGroup,
    VisionConfig,
)

TEXT_IDS, LOCATION_BINS, ACTION_BINS = 512, 64, 256  # the vocabulary of the small networks, in this order
LOCATION = SlotGroup("location", 6, TEXT_IDS, LOCATION_BINS)


def small() -> NetworkConfig:
    """The shipped one: trains on a laptop's CPU (docs/shipped-policy.md)."""
    return NetworkConfig(
        vision=VisionConfig(ConvStem(), image_size=96, width=128, depth=2, heads=4, mlp=384, gelu="tanh"),
        cameras=(CameraTokens("front"), CameraTokens("wrist", merge=2)),
        language=LanguageConfig(
            TEXT_IDS + LOCATION_BINS + ACTION_BINS, width=128, depth=4, heads=4, kv_heads=4, mlp=352
        ),
        text_length=16,
        state_width=10,
        action_width=7,
        horizon=4,
        answers=(LOCATION,),
        head=DiscreteHead(ACTION_BINS, first_id=TEXT_IDS + LOCATION_BINS),
    )


def tiny() -> NetworkConfig:
    """For tests: learns a few episodes by heart in seconds."""
    return NetworkConfig(
        vision=VisionConfig(ConvStem((16, 24)), image_size=96, width=32, depth=1, heads=2, mlp=64, gelu="tanh"),
        cameras=(CameraTokens("front", merge=2), CameraTokens("wrist", merge=2)),
        language=LanguageConfig(
            TEXT_IDS + LOCATION_BINS + ACTION_BINS, width=64, depth=2, heads=4, kv_heads=2, mlp=128
        ),
        text_length=16,
        state_width=10,
        action_width=7,
        horizon=4,
        answers=(LOCATION,),
        head=DiscreteHead(ACTION_BINS, first_id=TEXT_IDS + LOCATION_BINS, smoothing=0.5),  # sharp: it learns by heart
        projector=64,
    )
