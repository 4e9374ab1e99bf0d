"""PyTorch's DistributedDataParallel over gloo (pytorch.org, 'Getting Started with Distributed Data Parallel'), channels
last, fused Adam, in fp32 or with autocast to bfloat16.

    mpirun -np 2 --bind-to none python benchmarks/torch_ddp.py --precision bf16 --output FOLDER
"""

import os

import peer


def main():
    options = peer.arguments(__doc__, precision=["fp32", "bf16"])
    rank, size = peer.place()
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29600")
    import torch
    from torch import distributed, nn

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", rank=rank, world_size=size)
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(64, 128, 3), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Flatten(),
        *(nn.Linear(51200, 512), nn.ReLU()),
        nn.Linear(512, peer.CLASSES),
    ).to(memory_format=torch.channels_last)
    parallel = nn.parallel.DistributedDataParallel(model)
    optimizer, criterion = torch.optim.Adam(parallel.parameters(), fused=True), nn.CrossEntropyLoss()
    pixels, labels = peer.images(rank, options.batch)
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(memory_format=torch.channels_last)
    y = torch.from_numpy(labels)
    clock = peer.Clock()
    for _ in range(options.warmup_steps + options.steps):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bf16"):
            loss = criterion(parallel(x), y)
        loss.backward()
        optimizer.step()
        loss.item()
        clock.step()
    clock.write(options, rank, size, {"torch": torch.__version__})
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
