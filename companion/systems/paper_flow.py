"""The paper's system: one Glow prior per source; the mixture explained by what they can generate together."""

from collections.abc import Mapping
from pathlib import Path

from flowsep.checkpoint import find_priors, load_prior
from flowsep.config import SeparationConfig
from flowsep.files import FlowsepError
from flowsep.prior import Prior, parameters
from flowsep.research_checkpoint import checkpoint_file
from flowsep.separator import Separator

from . import System, total_costs


class InstGlow(System):
    """`flowsep.Separator` with the priors in a folder; the options are `SeparationConfig`'s, by default the paper's.

    The priors are `<source>.safetensors` files or folders `<source>/` of the research code.
    """

    name = "instglow"
    supervision = "solo"
    Options = SeparationConfig
    defaults = SeparationConfig.paper().model_dump()
    flows: dict[str, Prior] | None = None  # loaded on first use
    separator: Separator | None = None

    def fit(self, dataset, profile, folder):
        """Train the priors one after the other into `<folder>/priors`, each on the solo stems of its source alone."""
        from .priors import train_source

        for source in self.sources:
            train_source(dataset, source, profile, folder)
        self.priors, self.flows, self.separator = Path(folder) / "priors", None, None

    def parts(self):
        """None: in a profile each prior is trained by a notebook of its own."""
        return ()

    def separate(self, mixture, sample_rate, references=None, callback=None):
        """See `System.separate`; `callback` as in `Separator.stream`."""
        if self.separator is None:
            self.separator = Separator(self._loaded(), self.options)
        return self.separator(mixture, sample_rate, callback)

    def checkpoints(self):
        """The priors' files; none for priors that were handed over in memory."""
        if isinstance(self.priors, Mapping):
            return []
        paths = [self._path(source) for source in self.sources]
        return [checkpoint_file(path) if path.is_dir() else path for path in paths]

    def costs(self):
        """See `System.costs`; the parameters are counted, so that the paper's checkpoints need not tell them."""
        flows = self._loaded().values()
        return total_costs({**flow.provenance, "parameters": parameters(flow)} for flow in flows)

    def _loaded(self) -> dict[str, Prior]:
        if self.flows is None:
            given = isinstance(self.priors, Mapping)
            self.flows = {s: self._given(s) if given else load_prior(self._path(s)) for s in self.sources}
        return self.flows

    def _given(self, source: str) -> Prior:
        if source not in self.priors:
            raise FlowsepError(f"instglow: no prior of '{source}'; given: {', '.join(self.priors) or 'none'}")
        return self.priors[source]

    def _path(self, source: str) -> Path:
        if self.priors is None:
            raise FlowsepError("instglow: no priors given; name the folder that holds <source>.safetensors")
        paths = find_priors(self.priors)
        if source not in paths:
            there = ", ".join(paths)
            raise FlowsepError(
                f"{self.priors}: no prior of '{source}' (there: {there}); train it with notebooks/04_train_prior.ipynb"
            )
        return paths[source]
