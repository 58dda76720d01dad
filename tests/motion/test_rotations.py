"""Rotations against scipy's, and at the angles where formulas break."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation, Slerp

from macedance.motion.rotations import (
    axis_angle_from_matrix,
    axis_angle_from_quaternion,
    matrix_from_axis_angle,
    matrix_from_quaternion,
    matrix_from_rotation_6d,
    quaternion_from_axis_angle,
    quaternion_from_matrix,
    quaternion_multiply,
    rotation_6d_from_matrix,
    slerp,
)

ANGLES = (0.0, 1e-9, 1e-6, 1e-4, 0.3, math.pi / 2, 2.0, math.pi - 1e-6, math.pi)


def random_vectors(seed: int, count: int = 200, largest: float = math.pi) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    axis = rng.standard_normal((count, 3))
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    return torch.from_numpy(axis * rng.uniform(0, largest, (count, 1)))


def xyzw(quaternion: torch.Tensor) -> np.ndarray:
    return np.roll(quaternion.numpy(), -1, axis=-1)


def test_matrix_from_axis_angle_equals_scipy() -> None:
    vectors = random_vectors(0, largest=3 * math.pi)
    expected = Rotation.from_rotvec(vectors.numpy()).as_matrix()
    np.testing.assert_allclose(matrix_from_axis_angle(vectors).numpy(), expected, atol=1e-12)


def test_quaternion_conversions_equal_scipy() -> None:
    vectors = random_vectors(1)
    rotations = Rotation.from_rotvec(vectors.numpy())
    quaternion = quaternion_from_axis_angle(vectors)
    np.testing.assert_allclose(xyzw(quaternion), rotations.as_quat(canonical=True), atol=1e-12)
    matrix = torch.from_numpy(rotations.as_matrix())
    np.testing.assert_allclose(xyzw(quaternion_from_matrix(matrix)), rotations.as_quat(canonical=True), atol=1e-12)
    np.testing.assert_allclose(matrix_from_quaternion(3 * quaternion).numpy(), rotations.as_matrix(), atol=1e-12)
    np.testing.assert_allclose(axis_angle_from_quaternion(-2 * quaternion).numpy(), vectors.numpy(), atol=1e-9)


def test_quaternion_multiply_applies_right_first() -> None:
    a, b = random_vectors(2), random_vectors(3)
    product = quaternion_multiply(quaternion_from_axis_angle(a), quaternion_from_axis_angle(b))
    expected = (Rotation.from_rotvec(a.numpy()) * Rotation.from_rotvec(b.numpy())).as_matrix()
    np.testing.assert_allclose(matrix_from_quaternion(product).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize("axis", [(1.0, 0, 0), (0, 1.0, 0), (0, 0, 1.0), (0.6, 0, -0.8), (-0.48, 0.6, 0.64)])
def test_axis_angle_round_trip_at_special_angles(angle: float, axis: tuple[float, float, float]) -> None:
    vector = torch.tensor(axis, dtype=torch.float64) * angle
    matrix = matrix_from_axis_angle(vector)
    again = axis_angle_from_matrix(matrix)
    assert torch.isfinite(again).all()
    # At pi the sign of the axis is free: compare rotations.
    torch.testing.assert_close(matrix_from_axis_angle(again), matrix, atol=1e-9, rtol=0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-3, 3, width=32), min_size=3, max_size=3))
def test_axis_angle_round_trip_in_float32_is_a_rotation_apart_by_less_than_1e_5(values: list[float]) -> None:
    vector = torch.tensor(values, dtype=torch.float32)
    matrix = matrix_from_axis_angle(vector)
    torch.testing.assert_close(matrix_from_axis_angle(axis_angle_from_matrix(matrix)), matrix, atol=2e-5, rtol=0)


def test_gradients_are_finite_at_identity_and_half_turn() -> None:
    for vector in (torch.zeros(3), torch.tensor([math.pi, 0.0, 0.0]), torch.tensor([1e-7, 0.0, 0.0])):
        x = vector.clone().requires_grad_()
        matrix_from_axis_angle(x).square()[0].sum().backward()
        assert x.grad is not None
        assert torch.isfinite(x.grad).all()


def test_gradient_of_matrix_from_axis_angle_at_zero_is_the_generator() -> None:
    jacobian = torch.autograd.functional.jacobian(matrix_from_axis_angle, torch.zeros(3, dtype=torch.float64))
    # d R / d x about the x axis: R21 grows, R12 falls.
    assert jacobian[2, 1, 0].item() == pytest.approx(1.0, abs=1e-6)
    assert jacobian[1, 2, 0].item() == pytest.approx(-1.0, abs=1e-6)


def test_rotation_6d_holds_the_first_two_rows() -> None:
    matrix = matrix_from_axis_angle(random_vectors(4, 5))
    flat = rotation_6d_from_matrix(matrix)
    torch.testing.assert_close(flat, torch.cat([matrix[:, 0], matrix[:, 1]], dim=-1))
    torch.testing.assert_close(matrix_from_rotation_6d(flat), matrix)


def test_rotation_6d_of_arbitrary_rows_is_orthonormal() -> None:
    rows = torch.randn(100, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = matrix_from_rotation_6d(rows)
    torch.testing.assert_close(matrix @ matrix.mT, torch.eye(3, dtype=torch.float64).expand(100, 3, 3))
    torch.testing.assert_close(torch.linalg.det(matrix), torch.ones(100, dtype=torch.float64))
    # The first row keeps its direction and the second stays in the plane of both.
    assert ((matrix[:, 0] * rows[:, :3]).sum(-1) > 0).all()
    assert (matrix[:, 2] * rows[:, 3:]).sum(-1).abs().max() < 1e-12


@pytest.mark.parametrize("rows", [torch.zeros(6), torch.tensor([1.0, 0, 0, 2.0, 0, 0])])
def test_rotation_6d_of_degenerate_rows_is_finite(rows: torch.Tensor) -> None:
    rows = rows.clone().requires_grad_()
    matrix = matrix_from_rotation_6d(rows)
    matrix.sum().backward()
    assert torch.isfinite(matrix).all()
    assert rows.grad is not None
    assert torch.isfinite(rows.grad).all()


def test_slerp_equals_scipy() -> None:
    a, b = random_vectors(5, 20), random_vectors(6, 20)
    qa, qb = quaternion_from_axis_angle(a), quaternion_from_axis_angle(b)
    for weight in (0.0, 0.25, 0.9, 1.0):
        mixed = slerp(qa, qb, torch.full((20,), weight, dtype=torch.float64))
        for row in range(20):
            ends = Rotation.from_rotvec(np.stack([a[row].numpy(), b[row].numpy()]))
            expected = Slerp([0, 1], ends)(weight).as_matrix()
            np.testing.assert_allclose(matrix_from_quaternion(mixed[row]).numpy(), expected, atol=1e-9)


def test_slerp_of_equal_and_of_opposite_quaternions_is_that_rotation() -> None:
    q = quaternion_from_axis_angle(random_vectors(7, 4))
    half = torch.full((4,), 0.5, dtype=torch.float64)
    torch.testing.assert_close(slerp(q, q, half), q)
    torch.testing.assert_close(matrix_from_quaternion(slerp(q, -q, half)), matrix_from_quaternion(q))
