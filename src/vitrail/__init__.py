"""Vitrail: Vision Transformers to train, measure, look inside and put to work.

    import vitrail

    model = vitrail.load("runs/digits-1")          # an nn.Module in eval mode: model(images) -> logits
    fresh = vitrail.build("vit-b/16", classes=10)  # the paper's ViT-B/16, newly initialised

The names below come on first use, so importing vitrail costs nothing. The stages are packages of their own, each with a verb of
its name: `vitrail.train.loop.train`, `vitrail.evaluate.evaluate`, `vitrail.predict.predict`.
"""
