"""Records what torchvision, timm and other PyTorch code answer, in `published.json`; needs torchvision and timm.

    python tests/models/record_published.py

Networks are those libraries' own, small of each family; weights and images are drawn by NumPy as `drawn` says, so
that the test needs none of them.
"""

import json
from pathlib import Path

import numpy as np
import timm
import torch
import torchvision.models as tv
from torch import nn
from torch.nn import functional
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.efficientnet import MBConvConfig
from torchvision.models.resnet import BasicBlock, Bottleneck

PLACE = Path(__file__).with_name("published.json")
NUM_CLASSES = 7


def drawn(shapes):
    """A state dict's tensors of these shapes, in their order; counters are left out."""
    rng = np.random.default_rng(0)
    found = {}
    for name, shape in shapes.items():
        if len(shape) > 1 and "layer_scale" not in name:
            found[name] = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        elif name.endswith(("bias", "running_mean")):
            found[name] = rng.standard_normal(shape) * 0.3
        else:
            found[name] = rng.uniform(0.5, 1.5, shape)
    return {name: array.astype(np.float32) for name, array in found.items()}


def images(size):
    """[4, size, size, 3] in [0, 1]."""
    return np.random.default_rng(1).random((4, size, size, 3), np.float32)


class PaddedBlock(nn.Module):
    """Of the ResNets of 20 to 110 layers, with the shortcut of option A."""

    def __init__(self, a, b, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b)
        self.conv2, self.bn2 = nn.Conv2d(b, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b)
        self.more, self.stride = b - a, stride

    def forward(self, x):
        out = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        half = self.more // 2
        return functional.relu(
            out + functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, half))
        )


class PaddedResNet(nn.Module):
    def __init__(self, width=8, count=1):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        a = width
        for index in range(3):
            b = width << index
            blocks = [PaddedBlock(a if i == 0 else b, b, 2 if index and i == 0 else 1) for i in range(count)]
            setattr(self, f"layer{index + 1}", nn.Sequential(*blocks))
            a = b
        self.linear = nn.Linear(a, NUM_CLASSES)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(functional.relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean((2, 3)))


class PreActBottleneck(nn.Module):
    def __init__(self, a, b, stride):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(a), nn.Conv2d(a, b, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(b), nn.Conv2d(b, b, 3, stride, 1, bias=False)
        self.bn3, self.conv3 = nn.BatchNorm2d(b), nn.Conv2d(b, 4 * b, 1, bias=False)
        if stride != 1 or a != 4 * b:
            self.shortcut = nn.Sequential(nn.Conv2d(a, 4 * b, 1, stride, bias=False))

    def forward(self, x):
        out = functional.relu(self.bn1(x))
        shortcut = self.shortcut(out) if hasattr(self, "shortcut") else x
        out = self.conv2(functional.relu(self.bn2(self.conv1(out))))
        return self.conv3(functional.relu(self.bn3(out))) + shortcut


class PreActResNet(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.conv1, a = nn.Conv2d(3, width, 3, 1, 1, bias=False), width
        for index in range(4):
            block = PreActBottleneck(a, width << index, 2 if index else 1)
            setattr(self, f"layer{index + 1}", nn.Sequential(block))
            a = 4 * (width << index)
        self.bn, self.linear = nn.BatchNorm2d(a), nn.Linear(a, NUM_CLASSES)

    def forward(self, x):
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        return self.linear(functional.relu(self.bn(x)).mean((2, 3)))


class CifarDenseLayer(nn.Module):
    def __init__(self, a, growth):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(a), nn.Conv2d(a, 4 * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, 1, 1, bias=False)

    def forward(self, x):
        out = self.conv1(functional.relu(self.bn1(x)))
        return torch.cat([self.conv2(functional.relu(self.bn2(out))), x], 1)


class Transition(nn.Module):
    def __init__(self, a, b):
        super().__init__()
        self.bn, self.conv = nn.BatchNorm2d(a), nn.Conv2d(a, b, 1, bias=False)

    def forward(self, x):
        return functional.avg_pool2d(self.conv(functional.relu(self.bn(x))), 2)


class CifarDenseNet(nn.Module):
    def __init__(self, growth=4, blocks=(2, 1, 2)):
        super().__init__()
        a = 2 * growth
        self.conv1, self.blocks = nn.Conv2d(3, a, 3, 1, 1, bias=False), len(blocks)
        for index, count in enumerate(blocks, 1):
            layers = [CifarDenseLayer(a + i * growth, growth) for i in range(count)]
            setattr(self, f"dense{index}", nn.Sequential(*layers))
            a += count * growth
            if index < len(blocks):
                setattr(self, f"trans{index}", Transition(a, a // 2))
                a //= 2
        self.bn, self.linear = nn.BatchNorm2d(a), nn.Linear(a, NUM_CLASSES)

    def forward(self, x):
        x = self.conv1(x)
        for index in range(1, self.blocks + 1):
            x = getattr(self, f"dense{index}")(x)
            x = getattr(self, f"trans{index}")(x) if index < self.blocks else x
        return self.linear(functional.relu(self.bn(x)).mean((2, 3)))


def vgg(batch_norm):
    """torchvision's VGG with few channels and hidden units."""
    plan = [8, "M", 16, "M", 16, 16, "M", 16, "M", 16, "M"]
    module = tv.VGG(tv.vgg.make_layers(plan, batch_norm), num_classes=NUM_CLASSES)
    for place, (a, b) in {0: (16 * 49, 12), 3: (12, 12), 6: (12, NUM_CLASSES)}.items():
        module.classifier[place] = nn.Linear(a, b)
    return module


def mobilenet_v3(kind):
    config, _ = tv.mobilenetv3._mobilenet_v3_conf(f"mobilenet_v3_{kind}", width_mult=0.1)
    return tv.MobileNetV3(config, 16, num_classes=NUM_CLASSES)


def efficientnet():
    plan = ((1, 3, 1, 16, 8, 2), (6, 3, 2, 8, 8, 2), (6, 5, 2, 8, 16, 1), (6, 3, 2, 16, 16, 1))
    plan += ((6, 5, 1, 16, 24, 1), (6, 5, 2, 24, 24, 1), (6, 3, 1, 24, 32, 1))
    blocks = [MBConvConfig(e, k, s, a, b, n, 1.0, 1.0) for e, k, s, a, b, n in plan]
    return tv.EfficientNet(blocks, 0.0, num_classes=NUM_CLASSES, last_channel=48)


def convnext():
    stages = [CNBlockConfig(a, b, 1) for a, b in ((8, 16), (16, 16), (16, 24), (24, None))]
    return tv.ConvNeXt(stages, num_classes=NUM_CLASSES)


def resnet(block, **options):
    return tv.ResNet(block, [1, 1, 1, 1], num_classes=NUM_CLASSES, **options)


def timm_vit():
    model = timm.models.vision_transformer.VisionTransformer
    return model(32, 8, 3, NUM_CLASSES, embed_dim=128, depth=2, num_heads=2)


def timm_convnext():
    return timm.models.convnext.ConvNeXt(num_classes=NUM_CLASSES, depths=(1, 1, 1, 1), dims=(8, 16, 16, 24))


# Name -> (network, pixels of its images).
CASES = {
    "torchvision resnet, basic": (lambda: resnet(BasicBlock), 32),
    "torchvision resnext": (lambda: resnet(Bottleneck, groups=4, width_per_group=32), 32),
    "timm resnet": (lambda: timm.models.resnet.ResNet(timm.models.resnet.BasicBlock, (1, 1, 1, 1), NUM_CLASSES), 64),
    "resnet for CIFAR, option A": (PaddedResNet, 32),
    "preact resnet, bottleneck": (PreActResNet, 32),
    "torchvision vgg": (lambda: vgg(False), 64),
    "torchvision vgg, batch norm": (lambda: vgg(True), 96),
    "torchvision densenet": (lambda: tv.DenseNet(4, (1, 2, 1, 1), 8, num_classes=NUM_CLASSES), 64),
    "densenet for CIFAR": (CifarDenseNet, 32),
    "torchvision mobilenet_v2": (lambda: tv.MobileNetV2(NUM_CLASSES, width_mult=0.1), 64),
    "torchvision mobilenet_v3_large": (lambda: mobilenet_v3("large"), 64),
    "torchvision mobilenet_v3_small": (lambda: mobilenet_v3("small"), 64),
    "torchvision efficientnet": (efficientnet, 64),
    "torchvision convnext": (convnext, 64),
    "timm convnext": (timm_convnext, 64),
    "timm vit": (timm_vit, 32),
}  # fmt: skip


def answers(module, size):
    """Logits with the running statistics, and with those of the batch."""
    x = torch.from_numpy(images(size).transpose(0, 3, 1, 2).copy())
    found = []
    for training in (False, True):
        module.train(training)
        for part in module.modules():
            if isinstance(part, nn.Dropout) or type(part).__name__ in ("StochasticDepth", "DropPath"):
                part.eval()
        with torch.no_grad():
            found.append([[round(float(v), 6) for v in row] for row in module(x)])
    return found


def main():
    """Writes the file."""
    found = {}
    for name, (make, size) in CASES.items():
        module = make()
        state = module.state_dict()
        shapes = {key: tuple(value.shape) for key, value in state.items() if "num_batches" not in key}
        arrays = {key: torch.from_numpy(array) for key, array in drawn(shapes).items()}
        module.load_state_dict({**state, **arrays}, strict=True)
        evaluated, batch = answers(module, size)
        found[name] = {"size": size, "shapes": shapes, "eval": evaluated, "batch": batch}
        print(name, sum(value.numel() for value in module.parameters()))
    PLACE.write_text(json.dumps(found, separators=(",", ":")).replace('},"', '},\n"') + "\n")


if __name__ == "__main__":
    main()
