"""A table with categories and missing values in scikit-learn's tools: a network in a pipeline, tuned by a grid search.

    python examples/tables_sklearn.py [--csv FILE]

Who survived the Titanic: 1,309 passengers, with ages, fares and ports that are missing. The table is the one that
scikit-learn brings along for its own tests (https://www.openml.org/d/40945), or a CSV file with the same columns.
`DeepcoreClassifier` stands where any classifier of scikit-learn could; two of those are fitted beside it, in the same pipeline.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import pandas as pd
import sklearn
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from deepcore.sklearn import DeepcoreClassifier

NUMBERS, CATEGORIES, TARGET = ["age", "sibsp", "parch", "fare"], ["pclass", "sex", "embarked"], "survived"
SEED = 0


def titanic() -> pd.DataFrame:
    """The table in scikit-learn's folder of tests, in the format ARFF: names, then lines of a CSV file."""
    folder = Path(sklearn.__file__).parent / "datasets" / "tests" / "data" / "openml" / "id_40945"
    with gzip.open(next(folder.glob("*.arff.gz")), "rt", encoding="utf-8") as file:
        names = []
        for line in file:
            if line.startswith("@attribute"):
                names.append(line.split("'")[1])
            elif line.startswith("@data"):
                return pd.read_csv(file, names=names, na_values="?")
    raise ValueError(f"{folder} has no table")


def pipeline(classifier) -> Pipeline:
    """Numbers: the median for missing ones, and a column that tells; categories: one-hot. Then the classifier."""
    numbers = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())
    categories = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"))
    columns = make_column_transformer((numbers, NUMBERS), (categories, CATEGORIES))
    return Pipeline([("columns", columns), ("classifier", classifier)])


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Accuracy on the test rows, by classifier."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--csv", type=Path, help="a table with the columns pclass, survived, sex, age, …")
    options = parser.parse_args(argv)

    table = titanic() if options.csv is None else pd.read_csv(options.csv)
    x, y = table[NUMBERS + CATEGORIES], table[TARGET].map({0: "died", 1: "survived"})
    missing = ", ".join(f"{name} {n}" for name, n in x.isna().sum().items() if n)
    print(f"{len(x):,} passengers, {(y == 'survived').mean():.1%} of whom survived; missing: {missing}")
    split = train_test_split(x, y, test_size=0.3, stratify=y, random_state=SEED)
    x_train, x_test, y_train, y_test = split

    network = DeepcoreClassifier(early_stopping=True, n_iter_no_change=20, optimizer="adamw", random_state=SEED)
    grid = {
        "classifier__hidden_layer_sizes": [(32,), (64, 32)],
        "classifier__lr": [1e-3, 5e-3],
        "classifier__optimizer__weight_decay": [1e-2, 1.0],
    }
    search = GridSearchCV(pipeline(network), grid, cv=4).fit(x_train, y_train)
    best = {name.removeprefix("classifier__"): value for name, value in search.best_params_.items()}
    print(f"best of the grid: {best}, {search.best_score_:.1%} in cross-validation")

    others = {
        "logistic regression": LogisticRegression(max_iter=1000),
        "MLPClassifier": MLPClassifier((32,), early_stopping=True, n_iter_no_change=20, random_state=SEED),
    }
    accuracies = {"DeepcoreClassifier": search.score(x_test, y_test)}
    for name, classifier in others.items():
        accuracies[name] = pipeline(classifier).fit(x_train, y_train).score(x_test, y_test)
    for name, accuracy in accuracies.items():
        print(f"{name:<20} {accuracy:.2%} of {len(x_test)} test passengers")
    guess = max((y_test == label).mean() for label in set(y))
    assert accuracies["DeepcoreClassifier"] > guess + 0.1, (
        f"{accuracies['DeepcoreClassifier']:.1%}, a guess has {guess:.1%}"
    )
    return accuracies


if __name__ == "__main__":
    main()
