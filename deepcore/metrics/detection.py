"""Mean average precision of detected boxes, by the rules of COCO and of Pascal VOC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from deepcore.errors import ArgumentError, DataError, ShapeError
from deepcore.metrics.base import Metric, host

PROTOCOLS = ("coco", "voc", "voc07")
FORMATS = ("xyxy", "xywh", "cxcywh")
#: COCO's ranges of areas, in pixels.
_AREAS = {"": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
_RECALLS = np.linspace(0.0, 1.0, 101)


def box_iou(first, second, crowd=None) -> np.ndarray:
    """|A ∩ B| / |A ∪ B| of each of N boxes with each of M, (N, M) float64; boxes are (x1, y1, x2, y2).

    crowd: (M,) booleans; there the denominator is |A| alone, as for COCO's regions of many objects.
    """
    a, b = (np.asarray(x, np.float64).reshape(-1, 4) for x in (first, second))
    corner = np.maximum(a[:, None, :2], b[None, :, :2])
    inside = np.clip(np.minimum(a[:, None, 2:], b[None, :, 2:]) - corner, 0, None).prod(axis=2)
    own, other = (np.clip(x[:, 2:] - x[:, :2], 0, None).prod(axis=1) for x in (a, b))
    whole = own[:, None] + other[None] - inside
    if crowd is not None:
        whole = np.where(np.asarray(crowd, bool)[None], own[:, None], whole)
    return np.divide(inside, whole, out=np.zeros_like(inside), where=whole > 0)


class _Image(NamedTuple):
    """One class in one image: detections, the best score first, and boxes; `ignored` boxes need not be found."""

    found: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    ignored: np.ndarray
    areas: np.ndarray


class MeanAveragePrecision(Metric):
    """The mean over classes of the area under the precision-recall curve of detected boxes.

    A detection is right if its IoU with a box of its class, which no better scored detection has, is at least a
    threshold. `update(output, target)` takes a list of dicts, one for each image: output {"boxes" (n, 4), "scores" (n,),
    "labels" (n,)}, target {"boxes" (m, 4), "labels" (m,)} and, where it has them, "iscrowd" (COCO) or "difficult" (VOC):
    boxes that may, but need not be found, and "area".

    protocol: "coco": IoU 0.5, 0.55 … 0.95, precision at 101 recalls, the best 100 detections of an image, matched to
    the best free box (Lin et al., 2014, as pycocotools); "voc": IoU 0.5, all points of the curve; "voc07": the mean of
    the precision at recalls 0, 0.1 … 1 (Everingham et al., 2010), both with detections matched to their best box, also
    if it is taken. Boxes are continuous: their width is x2 - x1, which the VOC devkit counts in whole pixels (+1).
    iou_thresholds: instead of the protocol's. box_format: "xyxy", "xywh" (corner and size), "cxcywh" (centre and size).
    max_detections: of an image, for COCO's recalls; the last one bounds all.

    `compute` gives a dict: "map"; of COCO also "map_50", "map_75", "map_small", "map_medium", "map_large" and recalls
    "mar_1", "mar_10", "mar_100", "mar_small" …; "classes" and "map_per_class". NaN where there are no boxes.
    """

    mode = "max"

    def __init__(
        self,
        protocol: str = "coco",
        iou_thresholds: Sequence[float] | None = None,
        box_format: str = "xyxy",
        max_detections: Sequence[int] = (1, 10, 100),
        name: str | None = None,
    ):
        if protocol not in PROTOCOLS:
            raise ArgumentError(f"protocol is one of {', '.join(map(repr, PROTOCOLS))}", received=repr(protocol))
        if box_format not in FORMATS:
            raise ArgumentError(f"box_format is one of {', '.join(map(repr, FORMATS))}", received=repr(box_format))
        default = np.linspace(0.5, 0.95, 10) if protocol == "coco" else [0.5]
        thresholds = np.array(default if iou_thresholds is None else iou_thresholds, np.float64)
        if thresholds.ndim != 1 or not thresholds.size or not ((thresholds > 0) & (thresholds <= 1)).all():
            raise ArgumentError("iou_thresholds are numbers above 0, at most 1", received=repr(iou_thresholds))
        if not max_detections or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in max_detections):
            raise ArgumentError("max_detections are whole numbers of at least 1", received=repr(max_detections))
        self.protocol, self.box_format = protocol, box_format
        self.iou_thresholds = thresholds.tolist()
        self.max_detections = sorted(max_detections)
        super().__init__(name)

    def reset(self) -> None:
        #: Of each image: detections and boxes.
        self.detections: list[dict[str, np.ndarray]] = []
        self.boxes: list[dict[str, np.ndarray]] = []

    def update(self, output: Sequence[Mapping[str, Any]], target: Sequence[Mapping[str, Any]]) -> None:
        output = [output] if isinstance(output, Mapping) else list(output)
        target = [target] if isinstance(target, Mapping) else list(target)
        if len(output) != len(target):
            raise ShapeError(
                "there is not one dict of detections for each image",
                expected=f"{len(target)} dicts",
                received=f"{len(output)}",
            )
        read = []
        for i, (found, true) in enumerate(zip(output, target)):
            place = f"image {len(self.boxes) + i}"
            read.append((self._read(found, "output", place, True), self._read(true, "target", place, False)))
        for found, true in read:
            self.detections.append(found)
            self.boxes.append(true)

    def _read(self, image: Mapping[str, Any], which: str, place: str, scored: bool) -> dict[str, np.ndarray]:
        needed = ("boxes", "labels", "scores") if scored else ("boxes", "labels")
        if not isinstance(image, Mapping) or any(key not in image for key in needed):
            received = f"keys {sorted(map(str, image))}" if isinstance(image, Mapping) else type(image).__name__
            raise ArgumentError(
                f"an image's {which} is a dict with {', '.join(needed)}", received=received, where=place
            )
        boxes = host(image["boxes"]).astype(np.float64)
        boxes = boxes.reshape(0, 4) if not boxes.size else boxes
        labels = host(image["labels"]).reshape(-1)
        out = {"boxes": boxes, "labels": labels}
        if scored:
            out["scores"] = host(image["scores"]).astype(np.float64).reshape(-1)
        else:
            ignored = next((image[key] for key in ("iscrowd", "difficult") if key in image), None)
            out["ignored"] = np.zeros(len(labels), bool) if ignored is None else host(ignored).reshape(-1).astype(bool)
        if "area" in image and not scored:
            out["area"] = host(image["area"]).astype(np.float64).reshape(-1)
        if boxes.ndim != 2 or boxes.shape[1] != 4 or any(len(values) != len(boxes) for values in out.values()):
            shapes = ", ".join(f"{key} {values.shape}" for key, values in out.items())
            raise ShapeError(
                f"the entries of an image's {which} do not belong together",
                expected="boxes (n, 4) and n of each other",
                received=shapes,
                where=place,
            )
        if any(not np.isfinite(values).all() for values in out.values()):
            raise DataError(f"an image's {which} has values that are not finite", where=place)
        if self.box_format != "xyxy":
            start, size = boxes[:, :2], boxes[:, 2:]
            start = start - size / 2 if self.box_format == "cxcywh" else start
            out["boxes"] = np.concatenate([start, start + size], axis=1)
        if "area" not in out and not scored:
            out["area"] = np.prod(out["boxes"][:, 2:] - out["boxes"][:, :2], axis=1)
        return out

    def compute(self) -> dict[str, Any]:
        labels = [image["labels"] for image in (*self.boxes, *self.detections)]
        classes = np.unique(np.concatenate(labels)) if labels else np.empty(0, np.int64)
        images = [[self._of_class(i, c) for i in range(len(self.boxes))] for c in classes]
        return (self._coco if self.protocol == "coco" else self._voc)(classes, images)

    def _of_class(self, i: int, c) -> _Image:
        found, true = self.detections[i], self.boxes[i]
        own = np.flatnonzero(found["labels"] == c)
        own = own[np.argsort(-found["scores"][own], kind="stable")]
        if self.protocol == "coco":
            own = own[: self.max_detections[-1]]
        those = true["labels"] == c
        boxes, ignored, areas = (true[key][those] for key in ("boxes", "ignored", "area"))
        return _Image(found["boxes"][own], found["scores"][own], boxes, ignored, areas)

    # -- COCO ---------------------------------------------------------------------------------------------
    def _coco(self, classes, images) -> dict[str, Any]:
        overlaps = [[box_iou(image.found, image.boxes, image.ignored) for image in of_class] for of_class in images]
        thresholds = np.array(self.iou_thresholds)
        shape = (len(_AREAS), len(classes), len(thresholds))
        precision, recall = np.full(shape, np.nan), np.full((len(self.max_detections), *shape), np.nan)
        for a, bounds in enumerate(_AREAS.values()):
            for k, (of_class, ious) in enumerate(zip(images, overlaps)):
                matched = [_match(image, iou, thresholds, bounds) for image, iou in zip(of_class, ious)]
                count = sum(int(np.count_nonzero(~ignored)) for _, _, ignored in matched)
                if not count:
                    continue
                for m, most in enumerate(self.max_detections):
                    scores = np.concatenate([image.scores[:most] for image in of_class])
                    order = np.argsort(-scores, kind="stable")
                    hit = np.concatenate([hit[:, :most] for hit, _, _ in matched], axis=1)[:, order]
                    counts = np.concatenate([~skip[:, :most] for _, skip, _ in matched], axis=1)[:, order]
                    right = np.cumsum(hit & counts, axis=1, dtype=float)
                    recall[m, a, k] = right[:, -1] / count if scores.size else 0.0
                    if m == len(self.max_detections) - 1:
                        wrong = np.cumsum(~hit & counts, axis=1, dtype=float)
                        precision[a, k] = [_at_recalls(r, w, count) for r, w in zip(right, wrong)]
        at = {"": slice(None), **{f"_{round(100 * t)}": i for i, t in enumerate(thresholds) if t in (0.5, 0.75)}}
        results = {f"map{name}": _mean(precision[0][:, i]) for name, i in at.items()}
        for a, area in enumerate(_AREAS):
            if area:
                results[f"map_{area}"] = _mean(precision[a])
        for m, most in enumerate(self.max_detections):
            results[f"mar_{most}"] = _mean(recall[m, 0])
        for a, area in enumerate(_AREAS):
            if area:
                results[f"mar_{area}"] = _mean(recall[-1, a])
        return {**results, "classes": classes, "map_per_class": np.array([_mean(row) for row in precision[0]])}

    # -- VOC ----------------------------------------------------------------------------------------------
    def _voc(self, classes, images) -> dict[str, Any]:
        values = np.full((len(classes), len(self.iou_thresholds)), np.nan)
        for k, of_class in enumerate(images):
            count = sum(int(np.count_nonzero(~image.ignored)) for image in of_class)
            scores = np.concatenate([image.scores for image in of_class])
            order = np.argsort(-scores, kind="stable")
            for t, threshold in enumerate(self.iou_thresholds if count else ()):
                hits = np.concatenate([_match_best(image, threshold) for image in of_class])[order]
                right, wrong = np.cumsum(hits == 1, dtype=float), np.cumsum(hits == 0, dtype=float)
                values[k, t] = self._area(right[hits >= 0], wrong[hits >= 0], count)
        return {
            "map": _mean(values),
            "classes": classes,
            "map_per_class": np.array([_mean(row) for row in values]),
        }

    def _area(self, right: np.ndarray, wrong: np.ndarray, count: int) -> float:
        recall, precision = right / count, right / (right + wrong)
        if self.protocol == "voc07":
            reached = [precision[recall >= r - 1e-12] for r in np.linspace(0.0, 1.0, 11)]
            return float(np.mean([values.max(initial=0.0) for values in reached]))
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        return float((np.diff(recall, prepend=0.0) * envelope).sum())


def _match(image: _Image, iou, thresholds, bounds) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(hits (T, D), detections that do not count (T, D), boxes that do not count (M,)) of an image, by COCO's rules.

    A detection takes the free box of the largest IoU; one that does not count only where no other is left.
    """
    boxes, _, true, crowd, areas = image
    ignored = crowd | (areas < bounds[0]) | (areas > bounds[1])
    hits = np.zeros((len(thresholds), len(boxes)), bool)
    skips = np.zeros_like(hits)
    free = np.ones((len(thresholds), len(true)), bool)
    least, rows, last = np.minimum(thresholds, 1 - 1e-10)[:, None], np.arange(len(thresholds)), len(true) - 1
    for d in range(len(boxes) if len(true) else 0):
        able = (iou[d] >= least) & (free | crowd)
        counting = able & ~ignored
        able = np.where(counting.any(axis=1, keepdims=True), counting, able)
        best = last - np.where(able, iou[d], -1.0)[:, ::-1].argmax(axis=1)  # of equal ones the last, as pycocotools
        hits[:, d] = able[rows, best]
        skips[:, d] = hits[:, d] & ignored[best]
        free[rows[hits[:, d]], best[hits[:, d]]] = False
    size = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    skips |= ~hits & ((size < bounds[0]) | (size > bounds[1]))
    return hits, skips, ignored


def _at_recalls(right: np.ndarray, wrong: np.ndarray, count: int) -> float:
    """The mean of the precision envelope at 101 recalls; 0 where a recall is not reached."""
    recall, precision = right / count, right / (right + wrong + np.spacing(1))
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(envelope[np.searchsorted(recall, _RECALLS, side="left")].mean())


def _match_best(image: _Image, threshold: float) -> np.ndarray:
    """1 for a hit, 0 for a miss, -1 for a detection of a difficult box, by VOC's rules."""
    boxes, _, true, difficult, _ = image
    hits = np.zeros(len(boxes), np.int8)
    taken = np.zeros(len(true), bool)
    iou = box_iou(boxes, true)
    for d in range(len(boxes) if len(true) else 0):
        best = int(iou[d].argmax())
        if iou[d, best] >= threshold:
            hits[d] = -1 if difficult[best] else not taken[best]
            taken[best] = True
    return hits


def _mean(values) -> float:
    values = np.asarray(values, float).reshape(-1)
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")
