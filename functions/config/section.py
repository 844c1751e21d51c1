"""What a section of a config is, and what a mode is: a section that knows what else it needs. Torch-free."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from functions.config.worlds import World
from functions.places import place

# Every number has an end: what is beyond it was never meant, and would be refused later, in words of torch's or of the
# operating system's. A test holds every section to this.
# What is counted one by one: a thousand millions in a second each are thirty years.
Positive = Annotated[int, Field(gt=0, le=10**9)]
# Rows that are in memory at once: a million of the smallest images here are a gigabyte with their activations.
Batch = Annotated[int, Field(gt=0, le=2**20)]
# Pixels of a side: one colour image of 4096 takes 200 MB in float32.
Side = Annotated[int, Field(gt=0, le=4096)]
# Channels: one 3x3 convolution between two layers of 4096 takes 600 MB in float32.
Width = Annotated[int, Field(gt=0, le=4096)]
# Blocks, one after the other: ResNet-1001 has 333.
Depth = Annotated[int, Field(gt=0, le=1000)]
# Processes or threads beside this one.
Workers = Annotated[int, Field(ge=0, le=256)]
# What the generators of torch and numpy take, as a signed number of 64 bits.
Seed = Annotated[int, Field(ge=0, lt=2**63)]
# A factor: float32 ends at 3e38, so that the product of three, squared gradients among them, is still a number.
Weight = Annotated[float, Field(ge=0, le=1e12)]
# A bound on a norm, or what something is divided by: the same range without its ends.
Scale = Annotated[float, Field(gt=0, le=1e12)]
Share = Annotated[float, Field(ge=0, le=1)]
# Without an end: 0 and 1 themselves have no meaning.
Inside = Annotated[float, Field(gt=0, lt=1)]
Place = Annotated[str, AfterValidator(place)]


class Refused(Exception):
    """A value that has no meaning beside others. Who knows which file or flag set the key makes it an InputError."""

    def __init__(self, key: str, why: str):
        super().__init__(f"{key}: {why}")
        self.key, self.why = key, why


class Section(BaseModel):
    """Unknown keys and wrong types are errors, and nothing changes after validation."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=())


class Mode(Section):
    """The keys that one mode reads, beyond the general sections that it needs.

    `section` is the section of a config where they stand (None: the mode has none), `own` a published section where
    those that this class itself declares may stand as well: `sa: {lmbda: 10}` is `unlearn: {lmbda: 10}`.
    """

    section: ClassVar[str | None] = None
    own: ClassVar[str | None] = None
    needs: ClassVar[tuple[str, ...]] = ()
    optional: ClassVar[tuple[str, ...]] = ("model",)  # general sections that it may have
    flags: ClassVar[dict[str, str]] = {}  # the keys that --alpha and --cond_scale set, which mean one in each mode

    @classmethod
    def own_keys(cls) -> set[str]:
        """The keys that this class declares and none of its bases."""
        bases = [base for base in cls.__mro__[1:] if issubclass(base, Section)]
        return set(cls.model_fields).difference(*(base.model_fields for base in bases))

    @classmethod
    def spelling(cls, key: str) -> str:
        """How a key is published: `sa.lmbda`, `unlearn.mask_path`."""
        return f"{cls.own if cls.own and key in cls.own_keys() else cls.section}.{key}"

    @property
    def scheduled(self) -> bool:
        """Whether a step depends on how long the run is going to be."""
        return False

    @property
    def freezes(self) -> bool:
        """Whether every step goes through a strict mask, so that the others of the weights end bit-identical."""
        return False

    @property
    def revision(self) -> int:
        """Grows where the same keys come to do something else: a run that began before is not gone on with."""
        return 0

    def resolved(self, world: World) -> Mode:
        """The section with what depends on the world filled in."""
        return self

    def check(self, cfg) -> None:
        """Raises Refused for what has no meaning beside the rest of the config."""
