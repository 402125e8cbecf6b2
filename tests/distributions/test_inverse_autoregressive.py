"""The inverse autoregressive flow: its battery, its masks, and the density of a draw against that of a point."""

import pytest
import torch
from pyro.distributions import Normal

from ppvae.distributions import InverseAutoregressive, center
from ppvae.nn import InverseAutoregressiveHead, NormalHead
from ppvae.nn.autoregressive import MaskedMLP
from ppvae.testing import check_distribution


def layers(dim, context, number=2):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = [MaskedMLP(dim, context, 16, reverse=bool(k % 2)).double() for k in range(number)]
        for layer in made:  # far from the identity
            layer.outward.weight.data.mul_(10)
            layer.past.weight.data.mul_(10)
    return made


def random(*shape):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_battery():
    homes = [(dtype, device) for dtype in (torch.float32, torch.float64) for device in ("cpu", "meta")]
    made = {home: [layer.to(home[1], home[0]) for layer in layers(2, 3)] for home in homes}

    def make(loc, scale, context):
        return InverseAutoregressive(loc, scale, context, made[loc.dtype, loc.device.type])

    params = {"loc": random(3, 2), "scale": random(3, 2).exp(), "context": random(3, 3)}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        z = make(**params).sample((1000,))
    report = check_distribution(
        make,
        params,
        proposal=Normal(z.mean(0), 2 * z.std(0)).to_event(1),
        points=lambda law: torch.stack([center(law), center(law) + 3]),
        skip={
            "isometry": "the layers know the coordinates",
            "moments": "has none in closed form",
            "entropy": "has none in closed form",
            "kl": "has none in closed form",
        },
    )
    assert isinstance(report["mass"], float), report


@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize("reverse", [False, True])
def test_each_coordinate_depends_on_those_before_it_alone(dim, reverse):
    layer = MaskedMLP(dim, 3, 16, reverse).double()
    c = random(3)
    for k in (0, 1):
        jacobian = torch.autograd.functional.jacobian(lambda z, k=k: layer(z, c)[k], random(dim))
        for place, i in enumerate(layer.order):
            before, after = layer.order[:place], layer.order[place:]
            assert (jacobian[i, before] != 0).all() and (jacobian[i, after] == 0).all()
    jacobian = torch.autograd.functional.jacobian(lambda c: torch.cat(layer(random(dim), c)), c)
    assert (jacobian != 0).all()


def test_the_density_of_a_draw_is_that_of_its_value_and_of_the_jacobian():
    law = InverseAutoregressive(random(4, 3), random(4, 3).exp(), random(4, 2), layers(3, 2, 4))
    torch.manual_seed(0)
    z = law.rsample((5,))
    torch.testing.assert_close(law.log_prob(z), law.log_prob(z.clone()))
    one = InverseAutoregressive(law.loc[0], law.scale[0], law.context[0], law.layers)
    u = random(3)
    jacobian = torch.autograd.functional.jacobian(lambda u: one.push(u)[0], u)
    expected = Normal(one.loc, one.scale).log_prob(u).sum() - jacobian.slogdet()[1]
    torch.testing.assert_close(one.log_prob(one.push(u)[0]), expected)


def test_the_density_of_a_fixed_draw_has_gradients_for_the_parameters():
    law = InverseAutoregressive(random(3), random(3).exp(), random(2), layers(3, 2))
    z = law.sample()
    for value in (z, z.clone()):
        for layer in law.layers:
            gradients = torch.autograd.grad(law.log_prob(value), list(layer.parameters()))
            assert all(g.abs().sum() > 0 for g in gradients)
    for p in law.layers[0].parameters():
        p.requires_grad_(False)
    z = law.sample()
    assert law.log_prob(z).requires_grad


def test_no_layers_are_the_normal_head():
    h = random(4, 6)
    law = InverseAutoregressiveHead(2, layers=0, context=2).double()(h)
    normal = NormalHead(2)(h[:, :4])
    z = random(7, 4, 2)
    torch.testing.assert_close(law.log_prob(z), normal.log_prob(z))
    torch.testing.assert_close(center(law), normal.mean)


@pytest.mark.parametrize("options", [{"layers": -1}, {"hidden": 0}, {"context": 0}])
def test_errors(options):
    with pytest.raises(ValueError, match="expected layers >= 0, hidden >= 1 and context >= 1"):
        InverseAutoregressiveHead(2, **options)
