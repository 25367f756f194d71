"""The networks in PyTorch, written from their definitions, to compare ours with."""

import torch
from torch import nn

from benchmarks.pytorch_networks import BasicBlock, PreActBlock, ResNet, SmallVgg, WideResNet16, conv


class Vgg19Bn(nn.Module):
    def __init__(self, num_classes, width, hidden):
        super().__init__()
        layers, a = [], 3
        for multiple, count in ((1, 2), (2, 2), (4, 4), (8, 4), (8, 4)):
            for _ in range(count):
                layers += [conv(a, multiple * width, bias=True), nn.BatchNorm2d(multiple * width), nn.ReLU()]
                a = multiple * width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(7) if hidden else nn.Identity()
        self.classifier = nn.Linear(a, num_classes)
        if hidden:
            self.classifier = nn.Sequential(
                *(nn.Linear(49 * a, hidden), nn.ReLU(), nn.Dropout()),
                *(nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout()),
                nn.Linear(hidden, num_classes),
            )

    def forward(self, x):
        return self.classifier(self.pool(self.features(x)).flatten(1))


class EncoderLayer(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.self_attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(0), nn.Linear(4 * width, width), nn.Dropout(0)
        )

    def forward(self, x):
        y = self.ln_1(x)
        x = x + self.self_attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class VisionTransformer(nn.Module):
    def __init__(self, num_classes, width, patch_size, depth, heads, image_size=32):
        super().__init__()
        self.conv_proj = nn.Conv2d(3, width, patch_size, patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.encoder = nn.Module()
        self.encoder.pos_embedding = nn.Parameter(torch.zeros(1, 1 + (image_size // patch_size) ** 2, width))
        self.encoder.layers = nn.Sequential()
        for index in range(depth):
            self.encoder.layers.add_module(f"encoder_layer_{index}", EncoderLayer(width, heads))
        self.encoder.ln = nn.LayerNorm(width, eps=1e-6)
        self.heads = nn.Sequential()
        self.heads.add_module("head", nn.Linear(width, num_classes))

    def forward(self, x):
        x = self.conv_proj(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x], dim=1) + self.encoder.pos_embedding
        return self.heads(self.encoder.ln(self.encoder.layers(x))[:, 0])


def build(name, num_classes, width, **options):
    """The network called `name` in fip_jax, with random weights and random BatchNorm statistics."""
    torch.manual_seed(0)
    module = {
        "small_vgg": lambda: SmallVgg(num_classes, width),
        "preact_resnet18": lambda: ResNet(num_classes, width, PreActBlock, False),
        "resnet18": lambda: ResNet(num_classes, width, BasicBlock, True),
        "vgg19_bn": lambda: Vgg19Bn(num_classes, width, **options),
        "wrn_16_1": lambda: WideResNet16(num_classes, width),
        "vit_small": lambda: VisionTransformer(num_classes, width, **options),
    }[name]()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.3)
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, std=0.3)
            nn.init.uniform_(part.running_var, 0.5, 2.0)
    for parameter in module.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return module
