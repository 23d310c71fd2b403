"""`python -m foundry_ray.cli`: the same as `foundry`, where no script is on the PATH (a Ray job)."""

from foundry_ray.cli.main import main

if __name__ == "__main__":
    main()
