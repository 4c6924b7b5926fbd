"""The only package that imports Ray: a sweep's shared stages as tasks and its trials through Ray Tune, on this machine or a cluster."""

from sweeper.cluster.environment import prepare

prepare()  # before any module of this package imports Ray, which reads its settings then
