"""The PPO engine. Begin with `trainer`, the loop; then `maths`, its formulas as pure functions with their sources.

`roles` says who shares weights with whom and `assemble` builds it; `rollout` samples episodes and cuts them into
minibatches; `watch` has what looks at a run, `saving` what keeps it; `sharding` is what several processes need;
`config` is what the PPO recipe takes, `arithmetic` what follows from it before anything is loaded. `baseline` is TRL
1.12's trainer.
"""
