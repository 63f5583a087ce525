"""Every number of a run, in one place.

A preset is a function that returns a whole `Recipe`; a variant calls another preset and changes fields. The notebooks
(through papermill's parameters) and the command line both change a recipe with `override`, which refuses a name that does
not exist and a value of the wrong type, before any work is done.

Paper: Table 1 and section 2.2 (pretraining), section 3.1 (fine-tuning). The dimensions of the four models are not in the
paper; they come from the published params.json files, and the 34B's from Code Llama 34B.
"""
from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field, replace


def require(condition: bool, message: str) -> None:
    """Raise ValueError(message) unless `condition` holds: the way every config states what it accepts."""
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a Llama 2 transformer; field names are those of Meta's params.json."""
    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    vocab_size: int
    multiple_of: int = 256                    # the FFN's hidden width is rounded up to a multiple of this
    ffn_dim_multiplier: float | None = None   # widens the FFN: 1.3 at 70B pays back what GQA saves
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    max_seq_len: int = 4096

    def __post_init__(self) -> None:
        for name in ("dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "multiple_of", "max_seq_len"):
            require(getattr(self, name) >= 1, f"model.{name} must be at least 1, got {getattr(self, name)}")
        require(self.dim % self.n_heads == 0, f"model.dim {self.dim} is not a multiple of model.n_heads {self.n_heads}")
        require(self.head_dim % 2 == 0, f"head width {self.head_dim} is odd: RoPE rotates pairs of channels")
        require(self.n_heads % self.n_kv_heads == 0,
                f"model.n_heads {self.n_heads} is not a multiple of model.n_kv_heads {self.n_kv_heads}")

    @property
    def head_dim(self) -> int:
        return self.dim // self.n_heads

    @property
    def hidden_dim(self) -> int:
        """Hidden width of the SwiGLU: two thirds of 4·dim, so that three matrices cost what two did."""
        hidden = int(2 * 4 * self.dim / 3)
        if self.ffn_dim_multiplier is not None:
            hidden = int(self.ffn_dim_multiplier * hidden)
        return self.multiple_of * -(-hidden // self.multiple_of)


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and its schedule (section 2.2): linear warm-up, then a cosine to `final_lr_fraction` of the peak."""
    peak_lr: float
    warmup_steps: int = 0
    final_lr_fraction: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-5
    weight_decay: float = 0.1
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        require(self.peak_lr > 0, f"optim.peak_lr must be above 0, got {self.peak_lr}")
        require(self.warmup_steps >= 0, f"optim.warmup_steps must not be negative, got {self.warmup_steps}")
        require(0 <= self.final_lr_fraction <= 1, f"optim.final_lr_fraction must lie in 0…1, got {self.final_lr_fraction}")
        require(self.clip_norm > 0, f"optim.clip_norm must be above 0 (inf switches clipping off), got {self.clip_norm}")


@dataclass(frozen=True)
class WorldConfig:
    """How many web pages the small world writes, and the share of pages with each planted fault."""
    documents: int = 12_000
    facts: int = 0                     # 0: the tables of data/world as they are; more: grown with invented places
    pii: float = 0.06
    exact_duplicates: float = 0.06
    near_duplicates: float = 0.04
    boilerplate: float = 0.08
    gibberish: float = 0.03
    toxic: float = 0.02
    other_languages: float = 0.06
    contaminated: float = 0.01

    def __post_init__(self) -> None:
        require(self.documents >= 1, f"world.documents must be at least 1, got {self.documents}")
        for f in dataclasses.fields(self):
            if f.type == "float":
                require(0 <= getattr(self, f.name) < 1, f"world.{f.name} is a share in 0…1, got {getattr(self, f.name)}")


@dataclass(frozen=True)
class MixtureConfig:
    """How often a cleaned page of each source is seen: 1 is once, 2 is up-sampled twice (section 2.1)."""
    encyclopedia: float = 2.0
    stories: float = 1.0
    poems: float = 1.0
    howtos: float = 1.0
    dialogues: float = 2.0
    exercises: float = 2.0
    languages: float = 1.0


@dataclass(frozen=True)
class PretrainConfig:
    """Token budget and batch of pretraining (section 2.2).

    The paper reads 4,096 tokens at a time throughout. On a CPU long rows cost most of their time in attention, so a preset
    may read rows of `long_seq_len` in a `long_share` of the steps, spread evenly, and rows of `seq_len` in the others.
    """
    tokens: int
    batch_tokens: int
    seq_len: int
    optim: OptimConfig
    long_seq_len: int | None = None
    long_share: float = 0.0
    validation_share: float = 0.02   # of the stream's end, never trained on
    snapshots: int = 0               # models kept along the way, for looking at how abilities grow

    def __post_init__(self) -> None:
        require(self.seq_len >= 2, f"pretrain.seq_len must be at least 2, got {self.seq_len}")
        require(self.batch_tokens % self.seq_len == 0,
                f"pretrain.batch_tokens {self.batch_tokens} is not a multiple of pretrain.seq_len {self.seq_len}")
        require(self.tokens >= self.batch_tokens,
                f"pretrain.tokens {self.tokens} is less than one batch of {self.batch_tokens} tokens: no step would run")
        require(0 <= self.long_share <= 1, f"pretrain.long_share is a share in 0…1, got {self.long_share}")
        require(0 < self.validation_share < 1, f"pretrain.validation_share is a share in 0…1, got {self.validation_share}")
        require(self.batch_tokens % self.longest == 0,
                f"pretrain.batch_tokens {self.batch_tokens} is not a multiple of pretrain.long_seq_len {self.longest}")

    @property
    def longest(self) -> int:
        return self.long_seq_len or self.seq_len

    @property
    def steps(self) -> int:
        return self.tokens // self.batch_tokens


@dataclass(frozen=True)
class SFTConfig:
    """Supervised fine-tuning (section 3.1)."""
    demonstrations: int
    epochs: int
    batch_size: int
    seq_len: int
    optim: OptimConfig
    noise: float = 0.0        # share of demonstrations written badly; the study of quality against quantity turns it up
    safety: float = 0.0       # share of demonstrations that decline an unsafe request (section 4.2.2)

    def __post_init__(self) -> None:
        require(self.demonstrations >= 1, f"sft.demonstrations must be at least 1, got {self.demonstrations}")
        require(self.epochs >= 1, f"sft.epochs must be at least 1, got {self.epochs}")
        require(self.batch_size >= 1, f"sft.batch_size must be at least 1, got {self.batch_size}")
        for name in ("noise", "safety"):
            require(0 <= getattr(self, name) <= 1, f"sft.{name} is a share in 0…1, got {getattr(self, name)}")


@dataclass(frozen=True)
class PreferencesConfig:
    """Collection of preference data (section 3.2.1): prompts shown to annotators, each with two replies."""
    helpfulness: int                                # prompts of the helpfulness side
    safety: int                                     # prompts of the safety side, most of them adversarial
    temperatures: tuple[float, float] = (0.7, 1.0)  # each model variant writes at both
    off_topic: float = 0.1                          # share of pairs in which one reply belongs to another prompt
    test_share: float = 0.1                         # of the prompts, held out from each batch

    def __post_init__(self) -> None:
        for name in ("helpfulness", "safety"):
            require(getattr(self, name) >= 1, f"preferences.{name} must be at least 1, got {getattr(self, name)}")
        require(min(self.temperatures) >= 0, f"preferences.temperatures must not be negative, got {self.temperatures}")
        require(0 <= self.off_topic <= 1, f"preferences.off_topic is a share in 0…1, got {self.off_topic}")
        require(0 < self.test_share < 1, f"preferences.test_share is a share in 0…1, got {self.test_share}")


@dataclass(frozen=True)
class RewardConfig:
    """Reward models (section 3.2.2): one epoch, warm-up over 3% of the steps and at least five, cosine to a tenth."""
    batch_pairs: int
    optim: OptimConfig                 # its warmup_steps are the least there are
    margins: str = "small"             # none, small or large: Table 27
    safety_weight: float = 1.0         # of the safety auxiliary loss, in the safety model alone
    warmup_share: float = 0.03
    other_share: float = 0.5           # of the helpfulness model's mix: pairs of other sources, as far as there are
    helpful_share: float = 0.1         # of the safety model's mix
    epochs: int = 1
    unsure: bool = True                # learn from pairs graded "negligibly better or unsure" too
    judge_layers: int = 0              # 0 trains the whole chat model; more freeze it and put so many blocks on top

    def __post_init__(self) -> None:
        require(self.batch_pairs >= 1, f"reward.batch_pairs must be at least 1, got {self.batch_pairs}")
        require(self.epochs >= 1, f"reward.epochs must be at least 1, got {self.epochs}")
        require(self.judge_layers >= 0, f"reward.judge_layers must not be negative, got {self.judge_layers}")
        require(self.margins in ("none", "small", "large"),
                f"reward.margins must be none, small or large, got {self.margins!r}")
        require(self.safety_weight >= 0, f"reward.safety_weight must not be negative, got {self.safety_weight}")
        for name in ("warmup_share", "other_share", "helpful_share"):
            require(0 <= getattr(self, name) < 1, f"reward.{name} is a share in 0…1, got {getattr(self, name)}")

    def schedule(self, steps: int) -> OptimConfig:
        """The optimiser's settings for a run of so many steps."""
        return replace(self.optim, warmup_steps=max(self.optim.warmup_steps, round(self.warmup_share * steps)))


@dataclass(frozen=True)
class RejectionConfig:
    """Rejection sampling (section 3.2.3). The paper is silent on K and the temperature."""
    samples: int                       # K: replies a prompt, of which the best is kept
    temperature: float = 1.0

    def __post_init__(self) -> None:
        require(self.samples >= 1, f"rejection.samples must be at least 1, got {self.samples}")
        require(self.temperature > 0, f"rejection.temperature must be above 0, got {self.temperature}")


@dataclass(frozen=True)
class PPOConfig:
    """PPO (section 3.2.3). Batch, minibatch, clip, β and the constant learning rate are the paper's; γ, λ, the critic's
    weight, the rollout temperature and patience are ours, since it is silent on them.

    The paper's hundreds of batches average out the noise that a constant rate leaves in the weights. The few of the toy
    preset do not, so there the rate falls to 0.
    """
    iterations: int
    batch: int                         # rollouts an iteration, one a prompt
    minibatch: int
    beta: float                        # weight of KL(π ‖ π₀) in the reward
    optim: OptimConfig
    max_new_tokens: int
    epochs: int = 1
    clip: float = 0.2
    gamma: float = 1.0
    lam: float = 0.95
    value_weight: float = 0.1
    temperature: float = 1.0
    evaluate_every: int = 5            # iterations
    patience: int = 4                  # evaluations without a better held-out reward before training stops

    def __post_init__(self) -> None:
        for name in ("iterations", "batch", "minibatch", "max_new_tokens", "epochs", "evaluate_every", "patience"):
            require(getattr(self, name) >= 1, f"ppo.{name} must be at least 1, got {getattr(self, name)}")
        require(self.batch % self.minibatch == 0,
                f"ppo.batch {self.batch} is not a multiple of ppo.minibatch {self.minibatch}")
        require(self.beta >= 0, f"ppo.beta must not be negative, got {self.beta}")
        require(0 < self.clip < 1, f"ppo.clip must lie in 0…1, got {self.clip}")
        require(self.temperature > 0, f"ppo.temperature must be above 0, got {self.temperature}: nothing would be explored")
        for name in ("gamma", "lam"):
            require(0 <= getattr(self, name) <= 1, f"ppo.{name} must lie in 0…1, got {getattr(self, name)}")


@dataclass(frozen=True)
class RLHFConfig:
    """What each of the versions sees (section 3.2.3). The paper is silent on all of it but `bag_from`."""
    prompts: int                       # of rejection sampling
    batch: PreferencesConfig           # the preferences collected from each version
    bag_from: int = 4                  # the first version that learns from the winners of all rounds, not of its own alone
    safety: float = 0.02               # share of safety demonstrations in the fine-tuning that comes first

    def __post_init__(self) -> None:
        for name in ("prompts", "bag_from"):
            require(getattr(self, name) >= 1, f"rlhf.{name} must be at least 1, got {getattr(self, name)}")
        require(0 <= self.safety <= 1, f"rlhf.safety is a share in 0…1, got {self.safety}")


@dataclass(frozen=True)
class DistillationConfig:
    """Safety context distillation (section 4.2.4). The paper is silent on all of it."""
    prompts: int                       # adversarial ones, a reply with the preprompt and one without to each
    epochs: int
    batch_size: int
    seq_len: int
    optim: OptimConfig
    lessons: int = 0                   # of each kind, for a model that does not know what a preprompt is
    temperature: float = 1.0

    def __post_init__(self) -> None:
        for name in ("prompts", "epochs", "batch_size"):
            require(getattr(self, name) >= 1, f"distillation.{name} must be at least 1, got {getattr(self, name)}")
        require(self.lessons >= 0, f"distillation.lessons must not be negative, got {self.lessons}")
        require(self.temperature >= 0, f"distillation.temperature must not be negative, got {self.temperature}")


@dataclass(frozen=True)
class GAttConfig:
    """Ghost Attention (section 3.3, A.3.5). The shortened half is the paper's; it is silent on all else."""
    dialogues: int                     # sampled under an instruction
    turns: int                         # of each, at most: fewer where the context ends
    cuts: int                          # of each, behind turns drawn by lot: the answer before each cut is learned
    epochs: int
    batch_size: int
    optim: OptimConfig
    lessons: int = 0                   # demonstrations of one turn under a rule, for a model that obeys none yet
    lessons_lr: float = 1e-5
    lessons_epochs: int = 2
    reminders: int = 0                 # of the model's own replies without a rule, learned along with each
    single: int = 0                    # dialogues of one turn under rules that it will not see held, learned along
    temperature: float = 0.7
    tries: int = 1                     # samples of an answer, at most, until one keeps its rule; with 1 nobody checks
    combined: float = 0.25             # share of the instructions that are two rules in one
    shortened: float = 0.5             # share of the dialogues with the instruction in few words

    def __post_init__(self) -> None:
        for name in ("dialogues", "turns", "cuts", "epochs", "batch_size", "lessons_epochs", "tries"):
            require(getattr(self, name) >= 1, f"gatt.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("lessons", "reminders", "single", "temperature"):
            require(getattr(self, name) >= 0, f"gatt.{name} must not be negative, got {getattr(self, name)}")
        require(self.cuts <= self.turns, f"gatt.cuts {self.cuts} exceeds gatt.turns {self.turns}: a dialogue has no more "
                                         "beginnings than turns")
        require(self.lessons_lr > 0, f"gatt.lessons_lr must be above 0, got {self.lessons_lr}")
        for name in ("combined", "shortened"):
            require(0 <= getattr(self, name) <= 1, f"gatt.{name} is a share in 0…1, got {getattr(self, name)}")


@dataclass(frozen=True)
class ParallelConfig:
    """How a model is spread over the processes that torchrun started, data × tensor of them; on one it says nothing."""
    tensor: int = 1              # processes that share each matrix; the others each read another part of a batch
    together: bool = True        # False: the first trains, with the threads of all, and all sample: pays for toys
    shard: bool = True           # FSDP2: a process keeps its part of weights, gradients and moments; False: whole copies
    reshard: bool = True         # free a block's gathered weights after its forward pass, gather them again for the backward
    checkpointing: bool = False  # keep each block's input alone, compute the rest again in the backward pass

    def __post_init__(self) -> None:
        require(self.tensor >= 1, f"parallel.tensor must be at least 1, got {self.tensor}")
        require(self.together or self.tensor == 1,
                f"parallel.tensor is {self.tensor}, but with parallel.together=False one process trains alone")


@dataclass(frozen=True)
class RuntimeConfig:
    """How the arithmetic is done, and where; nothing here changes what is computed."""
    precision: str = "auto"    # auto: bf16 autocast where this processor is faster with it; else float32 or bfloat16
    compile: bool = False      # torch.compile: 20–45 s before the first step, pays on long runs
    save_every: int = 0        # steps between saved states of pretraining, from which a stopped run goes on; 0: none
    parts: int = 1             # one process alone works in so many parts, and sums as that many processes would
    parallel: ParallelConfig = field(default_factory=ParallelConfig)

    def __post_init__(self) -> None:
        require(self.save_every >= 0, f"runtime.save_every must not be negative, got {self.save_every}")
        require(self.parts >= 1, f"runtime.parts must be at least 1, got {self.parts}")
        require(self.precision in ("auto", "float32", "bfloat16"),
                f"runtime.precision must be auto, float32 or bfloat16, got {self.precision!r}")


@dataclass(frozen=True)
class Recipe:
    """A whole run, from the first web page to the last stage."""
    name: str
    model: ModelConfig
    pretrain: PretrainConfig
    sft: SFTConfig
    variant: SFTConfig                # another chat model from the same base: replies to compare come from two models
    preferences: PreferencesConfig
    reward: RewardConfig
    rejection: RejectionConfig
    ppo: PPOConfig
    rlhf: RLHFConfig
    distillation: DistillationConfig
    gatt: GAttConfig
    world: WorldConfig = field(default_factory=WorldConfig)
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        for stage, seq_len in (("pretrain", self.pretrain.longest), ("sft", self.sft.seq_len),
                               ("variant", self.variant.seq_len), ("distillation", self.distillation.seq_len)):
            require(seq_len <= self.model.max_seq_len,
                    f"{stage}.seq_len {seq_len} exceeds model.max_seq_len {self.model.max_seq_len}")


# --------------------------------------------------------------------------------------------------------------- presets

def toy() -> Recipe:
    """The course as committed: 1.3 million parameters, two CPU cores, no network."""
    return Recipe(
        name="toy",
        model=ModelConfig(dim=128, n_layers=4, n_heads=4, n_kv_heads=2, vocab_size=2048, multiple_of=32, max_seq_len=512),
        pretrain=PretrainConfig(tokens=2_200_000, batch_tokens=1_024, seq_len=128, long_seq_len=512, long_share=0.1,
                                optim=OptimConfig(peak_lr=3e-3, warmup_steps=100), snapshots=5),
        sft=SFTConfig(demonstrations=3_000, epochs=2, batch_size=4, seq_len=384,      # a row holds about six examples
                      optim=OptimConfig(peak_lr=5e-4, warmup_steps=10)),
        variant=SFTConfig(demonstrations=2_000, epochs=2, batch_size=4, seq_len=384, noise=0.2, safety=0.002,
                          optim=OptimConfig(peak_lr=5e-4, warmup_steps=10)),
        preferences=PreferencesConfig(helpfulness=26_000, safety=4_000, temperatures=(0.8, 1.1)),
        reward=RewardConfig(batch_pairs=32, optim=OptimConfig(peak_lr=2e-3, warmup_steps=5), other_share=0.1,
                            unsure=False, judge_layers=3),
        rejection=RejectionConfig(samples=8),
        ppo=PPOConfig(iterations=25, batch=512, minibatch=64, beta=0.05, max_new_tokens=64, lam=1.0, value_weight=0.5,
                      optim=OptimConfig(peak_lr=1e-4, final_lr_fraction=0.0)),     # to 0: see PPOConfig
        rlhf=RLHFConfig(prompts=1_200, batch=PreferencesConfig(helpfulness=1_600, safety=500, temperatures=(0.8, 1.1)),
                        bag_from=1),
        distillation=DistillationConfig(prompts=400, epochs=2, batch_size=4, seq_len=384, lessons=100,
                                        optim=OptimConfig(peak_lr=3e-4, warmup_steps=2)),
        gatt=GAttConfig(dialogues=1_800, turns=12, cuts=8, epochs=2, batch_size=2, temperature=0.4, tries=4, lessons=7_200,
                        lessons_lr=1.5e-3, lessons_epochs=3, reminders=2_000, single=1_800,
                        optim=OptimConfig(peak_lr=8e-4, warmup_steps=10)),
    )


def small() -> Recipe:
    """One GPU, minutes to an hour: about 100M parameters in a larger generated world."""
    return Recipe(
        name="small",
        model=ModelConfig(dim=768, n_layers=12, n_heads=12, n_kv_heads=4, vocab_size=8192, multiple_of=64,
                          max_seq_len=1024),
        world=WorldConfig(documents=1_000_000, facts=20_000),
        pretrain=PretrainConfig(tokens=500_000_000, batch_tokens=262_144, seq_len=1024,
                                optim=OptimConfig(peak_lr=6e-4, warmup_steps=200)),
        sft=SFTConfig(demonstrations=20_000, epochs=2, batch_size=64, seq_len=1024,
                      optim=OptimConfig(peak_lr=5e-5, warmup_steps=20), safety=0.02),
        variant=SFTConfig(demonstrations=10_000, epochs=2, batch_size=64, seq_len=1024, noise=0.2, safety=0.02,
                          optim=OptimConfig(peak_lr=5e-5, warmup_steps=20)),
        preferences=PreferencesConfig(helpfulness=100_000, safety=30_000),
        reward=RewardConfig(batch_pairs=256, optim=OptimConfig(peak_lr=5e-5, warmup_steps=5)),
        rejection=RejectionConfig(samples=16),
        ppo=PPOConfig(iterations=200, batch=512, minibatch=64, beta=0.02, max_new_tokens=256,
                      optim=OptimConfig(peak_lr=1e-5, final_lr_fraction=1.0)),
        rlhf=RLHFConfig(prompts=10_000, batch=PreferencesConfig(helpfulness=20_000, safety=6_000)),
        distillation=DistillationConfig(prompts=4_000, epochs=2, batch_size=64, seq_len=1024, lessons=500,
                                        optim=OptimConfig(peak_lr=3e-5, warmup_steps=5)),
        gatt=GAttConfig(dialogues=4_000, turns=12, cuts=2, epochs=2, batch_size=32, lessons=10_000, lessons_lr=5e-5,
                        reminders=3_000, single=2_000, optim=OptimConfig(peak_lr=5e-5, warmup_steps=20)),
    )


def _llama2(name: str, peak_lr: float, reward_lr: float = 1e-5, beta: float = 0.01, tensor: int = 1, **shape) -> Recipe:
    """The paper's recipe: Table 1, sections 2.2, 3.1, 3.2.2 and 3.2.3; shape, learning rates and β alone differ by size.

    The paper is silent on the warm-up of fine-tuning: none here. A batch of 4M tokens is 1,024 sequences of 4,096. Table 6
    counts the 1,418,091 comparisons of both sides together: halves are ours. The paper does not say how many of its
    demonstrations were about safety ("a few thousand"): a tenth here. The variant is one with other demonstrations. Nor does
    it say how the models were spread: as much tensor parallelism here as keeps a node of eight GPUs to itself.
    """
    sft = SFTConfig(demonstrations=27_540, epochs=2, batch_size=64, seq_len=4096, optim=OptimConfig(peak_lr=2e-5),
                    safety=0.1)
    return Recipe(
        name=name,
        model=ModelConfig(vocab_size=32_000, max_seq_len=4096, **shape),
        pretrain=PretrainConfig(tokens=2_000_000_000_000, batch_tokens=1024 * 4096, seq_len=4096,
                                optim=OptimConfig(peak_lr=peak_lr, warmup_steps=2000)),
        sft=sft, variant=replace(sft, demonstrations=10_000),
        preferences=PreferencesConfig(helpfulness=709_045, safety=709_046, off_topic=0.0),
        reward=RewardConfig(batch_pairs=512, optim=OptimConfig(peak_lr=reward_lr, warmup_steps=5)),
        rejection=RejectionConfig(samples=20),
        ppo=PPOConfig(iterations=400, batch=512, minibatch=64, beta=beta, max_new_tokens=1024,
                      optim=OptimConfig(peak_lr=1e-6, final_lr_fraction=1.0)),
        rlhf=RLHFConfig(prompts=100_000, safety=0.1,                          # fourteen batches in all: Table 26
                        batch=PreferencesConfig(helpfulness=50_646, safety=50_646, off_topic=0.0)),
        distillation=DistillationConfig(prompts=10_000, epochs=1, batch_size=64, seq_len=4096,
                                        optim=OptimConfig(peak_lr=1e-5)),
        gatt=GAttConfig(dialogues=10_000, turns=20, cuts=1, epochs=2, batch_size=64, temperature=1.0,
                        optim=OptimConfig(peak_lr=2e-5)),
        runtime=RuntimeConfig(precision="bfloat16", compile=True, save_every=1_000,
                              parallel=ParallelConfig(tensor=tensor, checkpointing=True)),
    )


def llama2_7b() -> Recipe:
    return _llama2("llama2_7b", 3e-4, dim=4096, n_layers=32, n_heads=32, n_kv_heads=32)


def llama2_13b() -> Recipe:
    return _llama2("llama2_13b", 3e-4, tensor=2, dim=5120, n_layers=40, n_heads=40, n_kv_heads=40)


def llama2_34b() -> Recipe:
    return _llama2("llama2_34b", 1.5e-4, beta=0.005, tensor=8, dim=8192, n_layers=48, n_heads=64, n_kv_heads=8,
                   ffn_dim_multiplier=1.0)


def llama2_70b() -> Recipe:
    return _llama2("llama2_70b", 1.5e-4, reward_lr=5e-6, beta=0.005, tensor=8, dim=8192, n_layers=80, n_heads=64,
                   n_kv_heads=8, multiple_of=4096, ffn_dim_multiplier=1.3)


PRESETS: dict[str, Callable[[], Recipe]] = {
    f.__name__: f for f in (toy, small, llama2_7b, llama2_13b, llama2_34b, llama2_70b)}


def preset(name: str) -> Recipe:
    """The recipe called `name`; ValueError lists the names there are."""
    require(name in PRESETS, f"no preset is called {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]()


# -------------------------------------------------------------------------------------------------------------- override

def override(recipe: Recipe, **dotted: object) -> Recipe:
    """A copy of `recipe` with fields changed by dotted name: `override(r, **{"model.dim": 64, "seed": 1})`.

    Raises ValueError for an unknown name, a wrong type, or a value the config itself refuses; the message names the field.
    All fields of one config change together, so that a pair of values that only fits jointly can be given.
    """
    return _override(recipe, dotted, prefix="")


def _override(config, changes: dict[str, object], prefix: str):
    hints = typing.get_type_hints(type(config))
    direct: dict[str, object] = {}
    nested: dict[str, dict[str, object]] = {}
    for name, value in changes.items():
        head, _, rest = name.partition(".")
        require(head in hints, f"no setting is called {prefix + name!r}; {prefix or 'the recipe'} has {', '.join(hints)}")
        if rest:
            require(dataclasses.is_dataclass(hints[head]),
                    f"{prefix + head!r} is a plain value, so there is no {prefix + name!r}")
            nested.setdefault(head, {})[rest] = value
        else:
            direct[head] = _checked(value, hints[head], prefix + head)
    for head, inner in nested.items():
        require(head not in direct, f"{prefix + head!r} is set whole and in part at once")
        direct[head] = _override(getattr(config, head), inner, prefix + head + ".")
    return replace(config, **direct)


def _checked(value: object, hint: object, name: str) -> object:
    """`value` as the type `hint` asks for; an int may stand for a float, nothing else is converted."""
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        (hint,) = (t for t in hint.__args__ if t is not type(None))
    if hint is float and type(value) is int:
        return float(value)
    if typing.get_origin(hint) is tuple:
        items = typing.get_args(hint)
        require(isinstance(value, (tuple, list)) and len(value) == len(items),
                f"{name} takes {len(items)} values, got {value!r}")
        return tuple(_checked(v, t, f"{name}[{i}]") for i, (v, t) in enumerate(zip(value, items, strict=True)))
    require(type(value) is hint, f"{name} takes {getattr(hint, '__name__', hint)}, got {value!r} of {type(value).__name__}")
    return value


def as_dict(config) -> dict:
    """A config as plain JSON types, for manifests and hashes."""
    return dataclasses.asdict(config)
