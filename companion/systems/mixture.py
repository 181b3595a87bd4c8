"""The floor of the table: no separation at all."""

from . import System


class UnprocessedMixture(System):
    """Every estimate is the mixture divided by the number of sources, so that the estimates sum to it.

    This is what the campaign's MIX rows are: about 1 dB a source, since `s - x/4` holds less energy than `s`.
    """

    name = "mixture"
    supervision = "none"

    def separate(self, mixture, sample_rate, references=None):
        """See `System.separate`."""
        return {source: mixture / len(self.sources) for source in self.sources}
