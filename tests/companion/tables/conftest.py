"""What several tests of tables read."""

import pandas as pd
import pytest
from score_rows import three_systems


@pytest.fixture
def frame() -> pd.DataFrame:
    return three_systems()
