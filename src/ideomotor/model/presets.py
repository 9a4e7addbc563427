"""Networks by name: sizes, nothing else."""

from dataclasses import replace

from ideomotor.model.config import (
    CameraTokens,
    ConvStem,
    DiscreteHead,
    L1Head,
    LanguageConfig,
    NetworkConfig,
    OpenVLAConfig,
    Parallel,
    PatchStem,
    SlotGroup,
    Tower,
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


def smollm2_135m() -> LanguageConfig:
    """SmolLM2-135M (arXiv 2502.02737)."""
    return LanguageConfig(49152, 576, 30, heads=9, kv_heads=3, mlp=1536, rope_theta=100000.0, tied=True)


def base() -> NetworkConfig:
    """ViT-S/14 (arXiv 2010.11929) and SmolLM2-135M; for a GPU, and meant to start from real words (`train --language`).

    Answers and actions take the last ids of SmolLM2's vocabulary.
    """
    language = smollm2_135m()
    first_action = language.vocabulary - ACTION_BINS
    return NetworkConfig(
        vision=VisionConfig(PatchStem(14), image_size=224, width=384, depth=12, heads=6, mlp=1536),
        cameras=(CameraTokens("front"), CameraTokens("wrist", merge=2)),
        language=language,
        text_length=32,
        state_width=10,
        action_width=7,
        horizon=4,
        answers=(replace(LOCATION, first_id=first_action - LOCATION_BINS),),
        head=DiscreteHead(ACTION_BINS, first_id=first_action),
        projector=1024,
    )


Colours = tuple[float, float, float]
IMAGENET: tuple[Colours, Colours] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean, std of DINOv2's training
IMAGENET_BF16: tuple[Colours, Colours] = (  # rounded to bfloat16 by the published conversion (arXiv 2406.09246)
    (0.484375, 0.455078125, 0.40625),
    (0.228515625, 0.2236328125, 0.224609375),
)
HALF: tuple[Colours, Colours] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # of SigLIP
HF_RMS_EPS, NATIVE_RMS_EPS = 1e-6, 1e-5  # what Hugging Face users run; what pretraining ran (arXiv 2406.09246)


def dinov2_large() -> VisionConfig:
    """Timm's `vit_large_patch14_reg4_dinov2.lvd142m` at 224 px, read after the second to last block."""
    return VisionConfig(
        PatchStem(14), 224, 1024, 24, 16, 4096, cls_tokens=1, register_tokens=4, layer_scale=1e-5, output_block=22
    )


def siglip_so400m() -> VisionConfig:
    """Timm's `vit_so400m_patch14_siglip_224`, read after the second to last block."""
    return VisionConfig(PatchStem(14), 224, 1152, 27, 16, 4304, output_block=25, attention_pool=True)


def llama2_7b(vocabulary: int = 32064, rms_eps: float = HF_RMS_EPS) -> LanguageConfig:
    """Llama-2-7B (arXiv 2307.09288) with OpenVLA's padded vocabulary."""
    return LanguageConfig(vocabulary, width=4096, depth=32, heads=32, kv_heads=32, mlp=11008, rms_eps=rms_eps)


def openvla_7b() -> OpenVLAConfig:
    """openvla-7b as Hugging Face users run it: 982 tensors, 7,541,237,184 parameters."""
    towers = (Tower(dinov2_large(), *IMAGENET_BF16), Tower(siglip_so400m(), *HALF))
    return OpenVLAConfig(towers, llama2_7b())


def openvla_oft_7b() -> OpenVLAConfig:
    """OpenVLA-OFT for LIBERO: two cameras, proprioception, chunks of 8, L1 head."""
    decoding = Parallel(horizon=8, action_width=7, head=L1Head(), state_width=8)
    return replace(openvla_7b(), decoding=decoding, cameras=2)
