"""Position tables: cosines, structure of tables whose structure is known, components against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from tests.support.models import HYBRID, MASKED, MAXVIT, VIT, lively, noise
from vitrail.errors import DoesNotApply
from vitrail.inspection.pca import components
from vitrail.inspection.positions import (
    position_components,
    position_similarity,
    position_structure,
    position_table,
    wave_share,
)
from vitrail.models.positions import sincos
from vitrail.models.vit import ViTConfig


def test_the_table_is_the_models_without_its_prefix():
    model = lively(VIT)
    table = position_table(model)
    assert table.shape == (14, 10, 24)
    assert torch.equal(table.flatten(0, 1), model.positions.table[0, 1:])
    assert position_table(model, (7, 5)).shape == (7, 5, 24)
    assert position_table(lively(HYBRID)).shape == (8, 6, 24)
    assert torch.equal(position_table(lively(MASKED)).flatten(0, 1), sincos((4, 3), 24, "sincos-mae")[0])


@pytest.mark.parametrize("config", [MAXVIT, ViTConfig(**{**VIT.__dict__, "positions": "none"})], ids=str)
def test_a_model_that_adds_none_says_so(config):
    with pytest.raises(DoesNotApply, match="adds no position embeddings"):
        position_table(lively(config))


def test_similarity_is_the_cosine():
    table = noise(3, 4, 9)
    found = position_similarity(table)
    assert found.shape == (3, 4, 3, 4)
    one, other = table[2, 1].numpy(), table[0, 3].numpy()
    assert float(found[2, 1, 0, 3]) == pytest.approx(
        one @ other / np.linalg.norm(one) / np.linalg.norm(other), abs=1e-6
    )
    assert torch.equal(found, found.permute(2, 3, 0, 1)) and torch.allclose(found[1, 1, 1, 1], torch.ones(()))


def test_rows_columns_and_their_interaction_of_made_tables():
    rows = noise(6, 1, 16).expand(6, 8, 16)
    columns = noise(1, 8, 16, seed=2).expand(6, 8, 16)
    assert position_structure(rows).rows == pytest.approx(1) and position_structure(columns).columns == pytest.approx(1)
    both = position_structure(rows + columns)
    assert both.rows + both.columns == pytest.approx(1) and both.interaction == pytest.approx(0, abs=1e-9)
    # independent entries: (h - 1) and (w - 1) of the h·w - 1 degrees of freedom
    chance = position_structure(noise(10, 10, 4000))
    assert chance.rows == pytest.approx(9 / 99, abs=0.01) and chance.columns == pytest.approx(9 / 99, abs=0.01)


def test_sines_are_found_and_noise_is_not():
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(9.0), indexing="ij")
    omega = torch.pi * torch.tensor([5.0, -9.0]) / 32
    assert wave_share(torch.cos(omega[0] * y + omega[1] * x + 0.7)) == pytest.approx(1, abs=1e-4)
    assert wave_share(noise(12, 9)) < 0.35
    assert wave_share(torch.ones(4, 4)) == 0
    fixed = sincos((14, 14), 64, "sincos-mae")[0].unflatten(0, (14, 14))
    assert position_structure(fixed).waves > 0.9 and position_structure(noise(14, 14, 64)).waves < 0.25
    assert position_structure(fixed).by_distance < -0.7
    assert (
        position_structure(fixed).neighbours > position_structure(fixed).same_line > position_structure(fixed).elsewhere
    )


@pytest.mark.parametrize("shape", [(40, 12), (12, 40), (20, 20)])
def test_components_are_those_of_scikit_learn(shape):
    rows = noise(*shape)
    found, theirs = components(rows, 5), PCA(5).fit(rows.numpy())
    assert np.allclose(found.explained, theirs.explained_variance_ratio_, atol=1e-5)
    assert np.allclose(np.abs((found.directions.numpy() * theirs.components_).sum(1)), 1, atol=1e-4)
    centred = rows - rows.mean(0)
    torch.testing.assert_close(found.scores, centred @ found.directions.T, rtol=1e-4, atol=1e-4)


def test_components_of_positions_are_laid_out_as_the_grid():
    table = noise(5, 7, 30)
    found = position_components(table, 4)
    assert found.scores.shape == (4, 5, 7)
    assert torch.allclose(found.scores.flatten(1).T, components(table.flatten(0, 1), 4).scores)
