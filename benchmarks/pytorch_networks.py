"""The networks that the benchmark times, in PyTorch, with the names of layers that their published files have."""

import copy

import torch
from torch import nn
from torch.nn import functional


def conv(a, b, size=3, stride=1, bias=False):
    return nn.Conv2d(a, b, size, stride, size // 2, bias=bias)


class SmallVgg(nn.Module):
    def __init__(self, num_classes, width):
        super().__init__()
        layers, a = [], 3
        for stage, rate in enumerate((0.3, 0.4, 0.4)):
            b = width * 2**stage
            for _ in range(2):
                layers += [conv(a, b, bias=True), nn.BatchNorm2d(b), nn.ELU()]
                a = b
            layers += [nn.MaxPool2d(2), nn.Dropout(rate)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(a * 16, num_classes)

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


class PreActBlock(nn.Module):
    def __init__(self, a, b, stride):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(a), conv(a, b, stride=stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(b), conv(b, b)
        if stride != 1 or a != b:
            self.shortcut = nn.Sequential(conv(a, b, 1, stride))

    def forward(self, x):
        out = functional.relu(self.bn1(x))
        shortcut = self.shortcut(out) if hasattr(self, "shortcut") else x
        return self.conv2(functional.relu(self.bn2(self.conv1(out)))) + shortcut


class BasicBlock(nn.Module):
    def __init__(self, a, b, stride):
        super().__init__()
        self.conv1, self.bn1 = conv(a, b, stride=stride), nn.BatchNorm2d(b)
        self.conv2, self.bn2 = conv(b, b), nn.BatchNorm2d(b)
        needed = stride != 1 or a != b
        self.shortcut = nn.Sequential(*[conv(a, b, 1, stride), nn.BatchNorm2d(b)] if needed else [])

    def forward(self, x):
        out = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(out + self.shortcut(x))


class ResNet(nn.Module):
    def __init__(self, num_classes, width, block, activated):
        super().__init__()
        self.conv1, a = conv(3, width), width
        self.activated = activated
        if activated:
            self.bn1 = nn.BatchNorm2d(width)
        for index, stride in enumerate((1, 2, 2, 2)):
            b = width * 2**index
            setattr(self, f"layer{index + 1}", nn.Sequential(block(a, b, stride), block(b, b, 1)))
            a = b
        self.linear = nn.Linear(a, num_classes)

    def forward(self, x):
        x = self.conv1(x)
        if self.activated:
            x = functional.relu(self.bn1(x))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.linear(x.mean((2, 3)))


class Factored(nn.Module):
    """A layer as U diag(relu(values)) V^T, of which the values alone are trained (Fast FIP)."""

    def __init__(self, layer: nn.Conv2d | nn.Linear):
        super().__init__()
        weight = layer.weight.detach()
        u, values, vt = torch.linalg.svd(weight.flatten(1), full_matrices=False)
        self.down, self.up = copy.deepcopy(layer), copy.deepcopy(layer)
        self.down.weight, self.down.bias = nn.Parameter(vt.reshape(-1, *weight.shape[1:])), None
        if isinstance(layer, nn.Conv2d):
            self.up = nn.Conv2d(len(values), len(u), 1, bias=layer.bias is not None)
        self.up.weight = nn.Parameter(u.reshape(*u.shape, *[1] * (weight.ndim - 2)))
        self.up.bias = layer.bias
        self.values = nn.Parameter(values)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.down(x)
        scale = functional.relu(self.values)
        return self.up(y * scale.reshape(1, -1, *[1] * (y.ndim - 2)))


def factorise(module: nn.Module, whole_head: bool) -> nn.Module:
    """A copy in which singular values and the parameters of BatchNorm alone are trained, and maybe the last layer."""
    module = copy.deepcopy(module)
    head = [path for path, part in module.named_modules() if isinstance(part, nn.Linear)][-1]
    for path, part in list(module.named_modules()):
        if isinstance(part, nn.Conv2d | nn.Linear) and not (whole_head and path == head):
            parent, _, name = path.rpartition(".")
            setattr(module.get_submodule(parent), name, Factored(part))
    for name, parameter in module.named_parameters():
        owner = module.get_submodule(name.rpartition(".")[0])
        whole = isinstance(owner, nn.BatchNorm2d) or name.rpartition(".")[0] == head
        parameter.requires_grad_(whole or name.endswith("values"))
    return module.to(memory_format=torch.channels_last)


def fold(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The kernels and all else of a network that was factorised, in float64, by the names before."""
    tensors = {name: tensor.detach().double() for name, tensor in tensors.items()}
    plain = {name: tensor for name, tensor in tensors.items() if not name.endswith(".values")}
    for name in tensors.keys() - plain.keys():
        layer = name.removesuffix(".values")
        down, up = plain.pop(f"{layer}.down.weight"), plain.pop(f"{layer}.up.weight")
        scale = functional.relu(tensors[name])
        kernel = (up.flatten(1) * scale) @ down.flatten(1)
        plain[f"{layer}.weight"] = kernel.reshape(len(up), *down.shape[1:])
        if f"{layer}.up.bias" in plain:
            plain[f"{layer}.bias"] = plain.pop(f"{layer}.up.bias")
    return plain


class WideBlock(nn.Module):
    def __init__(self, a, b, stride):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(a), conv(a, b, stride=stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(b), conv(b, b)
        self.same = a == b
        if not self.same:
            self.convShortcut = conv(a, b, 1, stride)

    def forward(self, x):
        out = functional.relu(self.bn1(x))
        shortcut = x if self.same else self.convShortcut(out)
        return self.conv2(functional.relu(self.bn2(self.conv1(out)))) + shortcut


class WideResNet16(nn.Module):
    """WRN-16-k with a first stage of `width` = 16 k channels."""

    def __init__(self, num_classes, width):
        super().__init__()
        self.conv1, a = conv(3, 16), 16
        for index, stride in enumerate((1, 2, 2)):
            b = width * 2**index
            block = nn.Module()
            block.layer = nn.Sequential(WideBlock(a, b, stride), WideBlock(b, b, 1))
            setattr(self, f"block{index + 1}", block)
            a = b
        self.bn1, self.fc = nn.BatchNorm2d(a), nn.Linear(a, num_classes)

    def forward(self, x):
        x = self.block3.layer(self.block2.layer(self.block1.layer(self.conv1(x))))
        return self.fc(functional.relu(self.bn1(x)).mean((2, 3)))


class PaddedBlock(nn.Module):
    """`BasicBlock` with a shortcut of its own: every second pixel, and zeros for the channels that are new."""

    def __init__(self, a, b, stride):
        super().__init__()
        self.conv1, self.bn1 = conv(a, b, stride=stride), nn.BatchNorm2d(b)
        self.conv2, self.bn2 = conv(b, b), nn.BatchNorm2d(b)
        self.stride, self.more = stride, (b - a) // 2

    def forward(self, x):
        out = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if self.more:
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.more, self.more))
        return functional.relu(out + x)


class ResNet20(nn.Module):
    """ResNet-20 for CIFAR-10, with the names of https://github.com/akamaster/pytorch_resnet_cifar10."""

    def __init__(self, num_classes):
        super().__init__()
        self.conv1, self.bn1, a = conv(3, 16), nn.BatchNorm2d(16), 16
        for index, b in enumerate((16, 32, 64)):
            blocks = [PaddedBlock(a if not k else b, b, 2 if index and not k else 1) for k in range(3)]
            setattr(self, f"layer{index + 1}", nn.Sequential(*blocks))
            a = b
        self.linear = nn.Linear(a, num_classes)

    def forward(self, x):
        x = functional.relu(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))
