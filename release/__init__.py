"""Publishing: the check of built packages (`make dist`) and a release (`make release`); docs/releasing.md."""
