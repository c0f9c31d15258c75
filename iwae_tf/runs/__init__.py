"""Training runs and their folders.

  training     a config, to a trained model
  callbacks    what `fit` calls
  checkpoints  exact resume
  workdir      the files of a run
  splits       its data, as trained on and as scored
  results      its evaluation, for `results.json`
  figures      its pictures
  tensorboard  its curves
  devices      replicas and workers
  model_card   what is told with an export
  pretrained   the models that ship

May import `saved_model`, `diagnostics`, `evaluation`, `config`, `models`, `plots`,
`bounds`, `datasets`, `probability`, `io`, `versions`, `errors` and `checks`.
"""
