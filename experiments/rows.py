"""What the tables of the experiments call their rows and columns: runs, metrics and scores."""

DIGITS = {
    "default": "`probcl fit`", "vsimclr": "`VSimCLR`",
    "vsimclr-published-kl-bound": "`VSimCLR`, published form",
    "vsimclr-published": "`VSimCLR`, published form, exact KL", "simclr": "`SimCLR`",
    "mcinfonce": "`MCInfoNCE`", "moco": "`MoCo`", "byol": "`BYOL`", "swav": "`SwAV`",
    "vicreg": "`VICReg`", "barlowtwins": "`BarlowTwins`", "vsupcon": "`VSupCon`",
    "vsupcon-published-kl-bound": "`VSupCon`, published form",
    "vsupcon-published": "`VSupCon`, published form, exact KL",
    "supcon": "`SupCon`", "varcon": "`VarCon`", "crossentropy": "`CrossEntropy`",
}  # fmt: skip
COLUMNS = {
    "linear probe": ("probe/top1", 3),
    "k-NN": ("knn/top1", 3),
    "ECE": ("cal/ece", 3),
    "effective rank": ("collapse/effective_rank", 1),
}
DIGITS_SCORES = (
    "entropy", "log_det_k", "nearest_cosine", "agreement", "max_probability", "mahalanobis",
    "trust",
)  # fmt: skip
DIGITS_QUESTIONS = {
    "inverted (AUROC)": "auroc_inverted",
    "rotated (AUROC)": "auroc_rotated",
    "shuffled pixels (AUROC)": "auroc_shuffled",
    "noise only (AUROC)": "auroc_noise_only",
    "wrong neighbour (AUROC)": "retrieval_error",
    "blur (Spearman)": "spearman_gaussian_blur",
    "noise (Spearman)": "spearman_gaussian_noise",
    "occlusion (Spearman)": "spearman_occlusion",
    "contrast loss (Spearman)": "spearman_contrast",
    "all 17 corruptions (Spearman)": "corruption",
}
TWINS_COLUMNS = {
    "k-NN": ("knn/top1", 3),
    "R@1": ("retrieval/recall_at_1", 3),
    "linear probe": ("probe/top1", 3),
    "effective rank": ("collapse/effective_rank", 1),
    "wrong neighbour: entropy": ("unc/retrieval_error/entropy", 3),
    "nearest cosine": ("unc/retrieval_error/nearest_cosine", 3),
    "agreement": ("unc/retrieval_error/agreement", 3),
}
CHANGES = {
    "twin": "the deterministic twin",
    "": "default: started at 0.9, corrected, beta 0.005",
    "start-0.3": "started at 0.3",
    "start-0.97": "started at 0.97",
    "start-published": "started as published",
    "uncorrected": "temperature not corrected",
    "beta-0": "beta 0: no KL",
    "beta-0.1": "beta 0.1",
    "beta-1": "beta 1",
    "kl-not-divided": "beta 0.32: a KL of weight 0.005 not divided by d",
    "kl-bound": "the paper's bound on the KL",
    "samples-8": "8 samples, inside the logarithm",
    "isotropic": "isotropic projected normal",
    "low-rank": "projected normal of low rank",
    "von-mises-fisher": "von Mises-Fisher",
    "power-spherical": "Power Spherical",
    "dim-16": "d = 16",
    "dim-256": "d = 256",
    "published-kl-bound": "published: started near the uniform, not corrected, beta 1, the bound",
    "published": "published, but the exact KL",
    "published-started": "published, but the exact KL, started at 0.9",
    "published-corrected": "published, but the exact KL, corrected",
    "published-beta-0.005": "published, but the exact KL, beta 0.005",
}
CHANGES_COLUMNS = {
    name: TWINS_COLUMNS[name]
    for name in ("k-NN", "R@1", "effective rank", "wrong neighbour: entropy")
}
MACHINES = {
    "one-thread": "one thread",
    "two-threads": "two threads",
    "avx2": "one thread, AVX2 in place of AVX-512",
    "torch-2.5": "one thread, torch 2.5",
}
MACHINES_COLUMNS = COLUMNS | {
    f"{name} (AUROC)": (f"unc/auroc_{name}/entropy", 2)
    for name in ("inverted", "rotated", "shuffled")
}
DEFAULT_BETA = {
    f"beta-{beta}": f"beta {beta:g}" for beta in (0.001, 0.01, 0.02, 0.03, 0.05, 0.1, 1.0)
}
DEFAULT_BETA_COLUMNS = MACHINES_COLUMNS | {
    f"{name} (Spearman)": (f"unc/spearman_{corruption}/entropy", 2)
    for name, corruption in (("blur", "gaussian_blur"), ("contrast loss", "contrast"))
}
DEFAULT_TIME = {
    f"epochs-{epochs}-batch-{batch}-samples-{samples}{rate}":
        f"{epochs} epochs, batches of {batch}, {samples} samples"
        + rate.replace("-rate-", ", learning rate ")
    for epochs, batch, samples, rate in (
        (80, 256, 8, ""), (60, 128, 4, ""), (60, 128, 2, ""), (50, 128, 2, ""), (40, 64, 4, ""),
        (40, 128, 8, ""), (40, 256, 8, ""), (40, 256, 8, "-rate-0.006"), (40, 256, 4, ""),
    )
} | {
    "epochs-60-batch-128-samples-2-kl-bound":
        "60 epochs, batches of 128, 2 samples, the paper's bound on the KL",
}  # fmt: skip
DEFAULT_TIME_COLUMNS = DEFAULT_BETA_COLUMNS | {
    "R@1": ("retrieval/recall_at_1", 3),
    "corrupted images: probe": ("shift/top1", 3),
}
DEGRADED = {
    "simclr": "SimCLR",
    "vsimclr": "VSimCLR, started at 0.9",
    "vsimclr-start-0.97": "VSimCLR, started at 0.97",
    "vsimclr-kl-bound": "VSimCLR, the paper's bound on the KL",
    "vsimclr-start-0.99": "VSimCLR, started at 0.99",
    "vsimclr-start-0.97-kl-bound": "VSimCLR, started at 0.97, the paper's bound on the KL",
    "vsimclr-isotropic-samples-8": "VSimCLR, isotropic, 8 samples",
}
FASHION_MNIST = {
    "vsimclr": "VSimCLR",
    "vsimclr-published-kl-bound": "VSimCLR, published form",
    "vsimclr-published": "VSimCLR, published form, exact KL",
    "vsimclr-degraded": "VSimCLR, degraded views",
    "simclr": "SimCLR",
    "simclr-degraded": "SimCLR, degraded views",
    "simclr-degraded-posthoc": "the same, post-hoc head",
    "expectedlikelihood": "Expected likelihood",
    "vsupcon": "VSupCon",
    "vsupcon-published-kl-bound": "VSupCon, published form",
    "vsupcon-published": "VSupCon, published form, exact KL",
    "supcon": "SupCon",
    "varcon": "VarCon",
}
CIFAR10 = {
    name: FASHION_MNIST[name]
    for name in ("simclr", "vsimclr", "vsimclr-published", "supcon", "vsupcon",
                 "vsupcon-published", "varcon")
} | {"crossentropy": "Cross-entropy"} | {
    f"{name}-beta-{beta}": f"{FASHION_MNIST[name]}, beta {beta}"
    for name in ("vsimclr", "vsupcon") for beta in (0, 1, 10)
}  # fmt: skip
CIFAR10_COLUMNS = {
    "linear probe": ("probe/top1", 3),
    "few-shot, 10 of each": ("few_shot/top1_of_10", 3),
    "corrupted images: probe": ("shift/top1", 3),
    "k-NN": ("knn/top1", 3),
    "R@1": ("retrieval/recall_at_1", 3),
    "effective rank": ("collapse/effective_rank", 1),
    "information of the probe, nats": ("information/probe_bound", 2),
    "of neighbours, nats": ("information/ksg", 2),
    "ECE": ("cal/ece", 3),
    "wrong neighbour: entropy": ("unc/retrieval_error/entropy", 2),
    "nearest cosine": ("unc/retrieval_error/nearest_cosine", 2),
    "agreement": ("unc/retrieval_error/agreement", 2),
}
TWINS = {
    name: FASHION_MNIST[name]
    for name in ("simclr", "vsimclr", "supcon", "vsupcon", "simclr-degraded", "vsimclr-degraded")
} | {
    "vsimclr-degraded-start-0.97": "VSimCLR, degraded views, started at 0.97",
    "vsimclr-kl-bound": "VSimCLR, the paper's bound on the KL",
    "vsupcon-kl-bound": "VSupCon, the paper's bound on the KL",
    "vsupcon-kl-bound-beta-0.1": "VSupCon, the paper's bound, beta 0.1",
    "vsupcon-kl-bound-beta-1": "VSupCon, the paper's bound, beta 1",
    "vsupcon-start-0.97": "VSupCon, started at 0.97",
    "vsupcon-start-0.999": "VSupCon, started at 0.999",
    "vsupcon-start-0.99999-beta-0": "VSupCon, started at 0.99999, beta 0",
    "vsupcon-isotropic": "VSupCon, isotropic projected normal",
    "vsupcon-samples-8": "VSupCon, 8 samples, inside the logarithm",
    "vsimclr-beta-0.1": "VSimCLR, beta 0.1",
    "vsupcon-beta-0.1": "VSupCon, beta 0.1",
} | {
    f"vsimclr-degraded-beta-{beta}": f"VSimCLR, degraded views, beta {beta}"
    for beta in (0.1, 0.3, 1)
} | {
    f"vsimclr-degraded-start-0.97-kl-bound-beta-{beta}":
        f"VSimCLR, degraded views, started at 0.97, the paper's bound, beta {beta}"
    for beta in (0.1, 1)
} | {
    f"vsimclr-degraded-uncorrected-{temperature}":
        f"VSimCLR, degraded views, temperature {temperature}, not corrected"
    for temperature in (0.1, 0.05)
}  # fmt: skip
DIGITS_TWINS = {
    name: (FASHION_MNIST | TWINS)[name]
    for twin in ("simclr", "supcon")
    for name in (
        twin,
        f"v{twin}",
        f"v{twin}-kl-bound",
        f"v{twin}-published-kl-bound",
        f"v{twin}-published",
    )
}
FASHION_MNIST_ROWS = {
    "linear probe": "probe/top1",
    "R@1": "retrieval/recall_at_1",
    "wrong neighbour: entropy": "unc/retrieval_error/entropy",
    "wrong neighbour: `log det K`": "unc/retrieval_error/log_det_k",
    "wrong neighbour: nearest cosine": "unc/retrieval_error/nearest_cosine",
    "wrong neighbour: agreement": "unc/retrieval_error/agreement",
    "wrong neighbour: trust": "unc/retrieval_error/trust",
    "out of distribution: entropy": "unc/out_of_distribution/entropy",
    "out of distribution: `log det K`": "unc/out_of_distribution/log_det_k",
    "out of distribution: max probability": "unc/out_of_distribution/max_probability",
    "out of distribution: Mahalanobis": "unc/out_of_distribution/mahalanobis",
    "out of distribution: trust": "unc/out_of_distribution/trust",
}
FASHION_MNIST_QUESTIONS = (
    "retrieval_error", "ambiguity", "aurc", "out_of_distribution", "auroc_mnist", "corruption",
)  # fmt: skip
