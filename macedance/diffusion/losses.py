"""The training losses of a motion: reconstruction, joints, velocity and foot contact.

Shapes: B batch, T frames, C = 151 channels, J = 24 joints, F = 4 foot joints. Positions in metres, z-up.

Source: MACE-Dance eq. 4-5, with the weights of EDGE (Tseng et al., CVPR 2023) as the start.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from macedance.errors import ConfigError
from macedance.motion.normalizer import MinMaxNormalizer
from macedance.motion.representation import CONTACTS, joints_from_representation
from macedance.motion.skeleton import FOOT_JOINTS

TERMS: tuple[str, ...] = ("rec", "vel", "joint", "foot", "acceleration")
# A term whose measured magnitude is below this is as good as absent: no factor could be read off it.
_NOTHING = 1e-8


class MotionLosses(nn.Module):
    """Weighted sum of the losses between a predicted and a true motion, both normalised.

    - ``rec``: mean squared error of the 151 normalised channels.
    - ``joint``: of the joint positions, m^2.
    - ``vel``: of the joint velocities, (m/s)^2.
    - ``foot``: squared velocity, (m/s)^2, of the predicted ankles and toes where the predicted contact, un-normalised,
      is above `contact_threshold` and 0 elsewhere; no gradient flows through the contacts.
    - ``acceleration``: of the joint accelerations, (m/s^2)^2; in no paper, off by default, computed only when weighted
      (weights near 1e-3: its unit is large).

    Kinematics run in float32 whatever the autocast, on motions un-normalised WITHOUT the clipping that decoding does:
    a clipped channel has no gradient, and a network that overshoots could not come back. Velocities are per second,
    not per frame: in metres per frame the foot term would be a ten-thousandth of the loss.

    The released MACE-Dance code differs: ``velocity_space="representation", kinematics_space="normalised",
    rebalance_below=0``: the velocity loss is on the frame differences of the 147 normalised non-contact channels,
    kinematics read the normalised values as if they were rotations and metres, velocities are per frame, and the
    contact threshold is applied to the normalised contact.

    Each mean is taken over a row's valid frames first and over rows then, so that ranks and micro-batches add up.

    Re-balancing: in the first training batch the weighted terms' shares of the total are measured (over all ranks);
    the weight of a term below `rebalance_below` is raised until its share is that, by a factor of `rebalance_cap` at
    most. Where no contact is predicted yet, the foot term is measured on the true contacts, so that an empty mask does
    not read as a small term; a term that is then still nothing keeps its weight. The weights in force are a
    persistent buffer: a resumed run keeps them and measures nothing again. `rebalance_report` says what happened. Runs
    that must agree across micro-batch sizes fix the weights: the measure is of the first micro-batch.

    Args:
        rec_weight: Weight of ``rec``.
        vel_weight: Weight of ``vel``.
        joint_weight: Weight of ``joint``.
        foot_weight: Weight of ``foot``.
        acceleration_weight: Weight of ``acceleration``.
        velocity_space: ``joints`` or ``representation``.
        kinematics_space: ``metres`` or ``normalised``.
        contact_threshold: Contact above which a foot counts as planted.
        rebalance_below: Smallest share of a term at the start, 0 .. 0.2; 0 leaves the weights alone.
        rebalance_cap: Largest factor by which a weight is raised.

    Raises:
        ConfigError: A negative weight or a value out of range.
    """

    weights: Tensor
    measured: Tensor

    def __init__(
        self,
        rec_weight: float = 0.636,
        vel_weight: float = 2.964,
        joint_weight: float = 0.646,
        foot_weight: float = 10.942,
        acceleration_weight: float = 0.0,
        velocity_space: Literal["joints", "representation"] = "joints",
        kinematics_space: Literal["metres", "normalised"] = "metres",
        contact_threshold: float = 0.95,
        rebalance_below: float = 0.01,
        rebalance_cap: float = 100.0,
    ) -> None:
        super().__init__()
        weights = (rec_weight, vel_weight, joint_weight, foot_weight, acceleration_weight)
        if min(weights) < 0 or sum(weights) == 0:
            raise ConfigError(f"loss weights {weights}", expected="none below 0 and one above")
        if velocity_space not in ("joints", "representation"):
            raise ConfigError(f"velocity_space is {velocity_space!r}", expected="'joints' or 'representation'")
        if kinematics_space not in ("metres", "normalised"):
            raise ConfigError(f"kinematics_space is {kinematics_space!r}", expected="'metres' or 'normalised'")
        if not 0 <= rebalance_below <= 0.2:
            raise ConfigError(f"rebalance_below is {rebalance_below}", expected="0 to 0.2")
        if rebalance_cap < 1:
            raise ConfigError(f"rebalance_cap is {rebalance_cap}", expected="1 or more")
        self.velocity_space = velocity_space
        self.kinematics_space = kinematics_space
        self.contact_threshold = contact_threshold
        self.rebalance_below = rebalance_below
        self.rebalance_cap = rebalance_cap
        self.with_acceleration = acceleration_weight > 0
        self.register_buffer("weights", torch.tensor(weights, dtype=torch.float32))
        self.register_buffer("measured", torch.tensor(False))
        # None: unknown, ask the buffer (once: asking it every step would wait for the accelerator).
        self._measured: bool | None = False
        self._report: dict[str, dict[str, Any]] | None = None

    def forward(
        self,
        x0_pred_BTC: Tensor,
        x0_BTC: Tensor,
        normalizer: MinMaxNormalizer,
        fps: float,
        mask_BT: Tensor | None = None,
        real_B: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The terms, unweighted, and their weighted sum.

        Args:
            x0_pred_BTC: Predicted motion, normalised.
            x0_BTC: True motion, normalised.
            normalizer: The motion's normaliser.
            fps: Frames per second, above 0.
            mask_BT: bool, False on padded frames; None where all are real.
            real_B: bool, False on rows that stand for nothing and do not count, as where ranks validate different
                numbers of clips; None where all count. In training all do: what a row weighs must not depend on which
                rank or micro-batch it is in.

        Returns:
            0-dim tensors ``rec, vel, joint, foot`` (and ``acceleration`` when it is weighted), unweighted, and
            ``total``, the one to differentiate.
        """
        with torch.autocast(device_type=x0_BTC.device.type, enabled=False):
            pred_BTC, true_BTC = x0_pred_BTC.float(), x0_BTC.float()
            if mask_BT is None:
                mask_BT = torch.ones(pred_BTC.shape[:2], dtype=torch.bool, device=pred_BTC.device)
            terms_B, foot_on_true_B = self._terms(pred_BTC, true_BTC, normalizer, fps, mask_BT)
            terms = {name: _mean_over_rows(value_B, real_B) for name, value_B in terms_B.items()}
            if self._should_measure():
                foot_on_true = _mean_over_rows(foot_on_true_B, real_B)
                self._measure({name: value.detach() for name, value in terms.items()}, foot_on_true)
            weights = self.weights.float()
            total = sum((weights[TERMS.index(name)] * value for name, value in terms.items()), pred_BTC.new_zeros(()))
        return {**terms, "total": total}

    def rebalance_report(self) -> dict[str, dict[str, Any]] | None:
        """What the first training batch showed, or None before it (and in a resumed run, which measures nothing).

        Returns:
            For each term ``value`` (unweighted), ``share`` of the weighted total before any change, ``weight`` in
            force, ``weight_before``, ``raised`` (bool) and ``measured_on`` (``batch``, ``true contacts`` or
            ``nothing``). Plain numbers, ready for a log.
        """
        return self._report

    def _terms(
        self, pred_BTC: Tensor, true_BTC: Tensor, normalizer: MinMaxNormalizer, fps: float, mask_BT: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        in_metres = self.kinematics_space == "metres"
        per_second = fps if in_metres else 1.0
        if in_metres:
            pred_space_BTC = unnormalize_unclipped(normalizer, pred_BTC)
            with torch.no_grad():
                true_space_BTC = unnormalize_unclipped(normalizer, true_BTC)
        else:
            pred_space_BTC, true_space_BTC = pred_BTC, true_BTC
        pred_BTJ3 = joints_from_representation(pred_space_BTC)
        with torch.no_grad():
            true_BTJ3 = joints_from_representation(true_space_BTC)

        step_BT = mask_BT[:, 1:] & mask_BT[:, :-1]
        pred_vel_BTJ3 = pred_BTJ3.diff(dim=1) * per_second
        error_vel_BTJ3 = pred_vel_BTJ3 - true_BTJ3.diff(dim=1) * per_second
        if self.velocity_space == "joints":
            vel = _row_means(error_vel_BTJ3.square(), step_BT)
        else:
            moving = slice(CONTACTS.stop, None)
            vel = _row_means((pred_BTC - true_BTC)[..., moving].diff(dim=1).square(), step_BT)

        foot_speed_BTF = pred_vel_BTJ3[:, :, FOOT_JOINTS].square().mean(-1)
        planted_BTF = pred_space_BTC[:, :-1, CONTACTS].detach() > self.contact_threshold
        foot = _row_means(foot_speed_BTF * planted_BTF, step_BT)
        with torch.no_grad():
            true_planted_BTF = true_space_BTC[:, :-1, CONTACTS] > self.contact_threshold
            foot_on_true_B = _row_means(foot_speed_BTF * true_planted_BTF, step_BT)
        terms = {
            "rec": _row_means((pred_BTC - true_BTC).square(), mask_BT),
            "vel": vel,
            "joint": _row_means((pred_BTJ3 - true_BTJ3).square(), mask_BT),
            "foot": foot,
        }
        if self.with_acceleration:
            error_acc_BTJ3 = error_vel_BTJ3.diff(dim=1) * per_second
            terms["acceleration"] = _row_means(error_acc_BTJ3.square(), step_BT[:, 1:] & step_BT[:, :-1])
        return terms, foot_on_true_B

    def _should_measure(self) -> bool:
        if not (self.training and torch.is_grad_enabled()):
            return False
        if self._measured is None:
            self._measured = bool(self.measured)
        return not self._measured

    def _measure(self, terms: dict[str, Tensor], foot_on_true: Tensor) -> None:
        names = list(terms)
        values = torch.stack([*terms.values(), foot_on_true.detach()])
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(values)
            values = values / torch.distributed.get_world_size()
        *numbers, true_foot = values.tolist()
        if not math.isfinite(sum(numbers)):
            return  # a step that does not count: the next one is measured
        value = dict(zip(names, numbers, strict=True))
        measured_on = dict.fromkeys(names, "batch")
        if value["foot"] <= _NOTHING:
            value["foot"], measured_on["foot"] = true_foot, "true contacts"
        before = {name: float(self.weights[TERMS.index(name)]) for name in names}
        weight = _raised_weights(value, before, self.rebalance_below, self.rebalance_cap)
        total = sum(before[name] * value[name] for name in names)
        self._report = {
            name: {
                "value": value[name],
                "share": before[name] * value[name] / total if total > 0 else 0.0,
                "weight": weight[name],
                "weight_before": before[name],
                "raised": weight[name] > before[name],
                "measured_on": measured_on[name] if value[name] > _NOTHING else "nothing",
            }
            for name in names
        }
        for name in names:
            self.weights[TERMS.index(name)] = weight[name]
        self.measured.fill_(True)
        self._measured = True

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._measured = None


def unnormalize_unclipped(normalizer: MinMaxNormalizer, x_BTC: Tensor) -> Tensor:
    """The inverse of `normalizer.normalize` without clipping to [-1, 1]: values outside keep their gradient."""
    low_C = normalizer.unnormalize(-torch.ones_like(x_BTC[0, 0]))
    high_C = normalizer.unnormalize(torch.ones_like(x_BTC[0, 0]))
    return torch.addcmul((low_C + high_C) / 2, x_BTC, (high_C - low_C) / 2)


def _row_means(value_BTX: Tensor, valid_BT: Tensor) -> Tensor:
    """Mean (B,) over the valid frames of each row and everything in them; 0 for a row without any."""
    per_frame_BT = value_BTX.flatten(2).mean(-1)
    return (per_frame_BT * valid_BT).sum(1) / valid_BT.sum(1).clamp(min=1)


def _mean_over_rows(value_B: Tensor, real_B: Tensor | None) -> Tensor:
    """Mean over the rows that count; 0 where none does."""
    if real_B is None:
        return value_B.mean()
    return (value_B * real_B).sum() / real_B.sum().clamp(min=1)


def _raised_weights(value: dict[str, float], weight: dict[str, float], share: float, cap: float) -> dict[str, float]:
    """Weights under which every measurable, weighted term has at least `share` of the total, within `cap`."""
    part = {name: weight[name] * value[name] for name in value if weight[name] > 0 and value[name] > _NOTHING}
    raised: set[str] = set()
    while share > 0:
        # With k raised terms at `share` each, the others together are 1 - k share of the new total.
        total = sum(part[name] for name in part if name not in raised) / (1 - share * len(raised))
        small = {name for name in part if name not in raised and part[name] < share * total * (1 - 1e-9)}
        if not small:
            break
        raised |= small
    factor = {name: min(share * total / part[name], cap) for name in raised}
    return {name: weight[name] * factor.get(name, 1.0) for name in weight}
