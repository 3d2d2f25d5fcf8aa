"""open_clip's image encoders at full size with random weights and published configurations."""

import contextlib
import json
import shutil


def read(path):
    return json.loads(path.read_text())


@contextlib.contextmanager
def timm_arguments(configs):
    """Makes timm apply the `model_args` of a config.json in the folder, if there is one."""
    import timm

    create, beside = timm.create_model, configs / "config.json"
    arguments = read(beside)["model_args"] if beside.is_file() else {}
    timm.create_model = lambda name, **given: create(name, **given, **arguments)
    try:
        yield
    finally:
        timm.create_model = create


def network(configs):
    """The network of a folder's open_clip_config.json; its unused text tower is small."""
    import open_clip

    settings = dict(read(configs / "open_clip_config.json")["model_cfg"])
    kind = open_clip.CustomTextCLIP if settings.pop("custom_text", False) else open_clip.CLIP
    settings["text_cfg"] = dict(context_length=77, vocab_size=100, width=64, heads=1, layers=1)
    with timm_arguments(configs):
        return kind(**settings).eval()


def make(folder, configs, device):
    """Writes the network with random weights to `folder`, if it is missing."""
    import torch
    from safetensors.torch import save_file

    if not (folder / "open_clip_model.safetensors").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(1)
        with torch.device(device):
            state = network(configs).half().state_dict()
        for name in ("open_clip_config.json", "config.json"):
            if (configs / name).is_file():
                shutil.copy(configs / name, folder / name)
        save_file({name: value.cpu().contiguous() for name, value in state.items()}, folder / "open_clip_model.safetensors")
    return folder


def prepared(folder, decoded):
    """Pictures prepared by open_clip, [count, 3, side, side]."""
    import torch
    from open_clip.transform import PreprocessCfg, image_transform_v2

    config = read(folder / "open_clip_config.json")
    size = config["model_cfg"]["vision_cfg"]["image_size"]
    transform = image_transform_v2(PreprocessCfg(size=size, **config.get("preprocess_cfg", {})), is_train=False)
    return torch.stack([transform(picture) for picture in decoded])
