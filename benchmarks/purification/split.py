"""Which networks of the study settings are chosen on, and which only show what the choice is worth.

Written on 2026-11-30, before the first run of the recipe with the suspicious network as a teacher. **No setting,
default, stopping rule or threshold is chosen by looking at a validation network's rates after purification**; its
rates before (is the backdoor there?) are looked at when it is trained. Whoever breaks this moves the network to
`DEVELOPMENT`.

Development has every network that earlier rounds of choosing looked at, and new ones. A network for validation is of
another training than any for development; of GTSRB and the rendered signs, with other clean images, too. The ResNet-20
of CIFAR-10 all go on from one published benign network, whichever side they are on.

`others/resnet20` was for validation until its ACC after purification (91.9 -> 80.5, later on the same day) was looked
at for a choice; it is for development since.

The `cifar10/badnets` of earlier versions is gone: it was trained on a lossy copy of the images.
"""

DATE = "2026-11-30"

# name: what kind of trigger it has
DEVELOPMENT: dict[str, str] = {
    "gtsrb/badnets": "patch",
    "gtsrb/blend": "blended",
    "gtsrb/sig": "sinusoid",
    "gtsrb/all_to_all": "all-to-all",
    "gtsrb/badnets_resnet": "patch",
    "gtsrb/benign": "benign",
    "signs/badnets_11": "patch",
    "signs/badnets_13": "patch",
    "signs/badnets_14": "patch",
    "signs/blend_12": "blended",
    "signs/benign_11": "benign",
    "ibau/cifar10_badnets": "patch",
    "ibau/cifar10_trojan_wm": "learnt",
    "medic/badnet": "patch",
    "medic/cleanlabel": "clean-label",
    "others/resnet20": "benign",
    "cifar10/badnets_resnet20": "patch",
    "cifar10/sig_resnet20": "sinusoid",
}

VALIDATION: dict[str, str] = {
    "ibau/gtsrb_badnets": "patch",
    "ibau/gtsrb_trojan_sq": "learnt",
    "ibau/gtsrb_l0_inv": "learnt",
    "cifar10/sig_preact": "sinusoid",
    "cifar10/clb_resnet20": "clean-label",
    "cifar10/all_to_all_resnet20": "all-to-all",
    "cifar10/wanet_resnet20": "warped",
    "cifar10/bppa_resnet20": "quantised",
    "cifar10/cba_resnet20": "composite",
    "gtsrb/sig_31": "sinusoid",
    "gtsrb/blend_wrn": "blended",
    "gtsrb/benign_33": "benign",
    "signs/lira_21": "learnt",
    "signs/dynamic_22": "learnt",
}
