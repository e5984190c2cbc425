"""Colour jitter in one pass over the image, with albumentations' random numbers."""

from typing import Any

import albumentations as A
import cv2
import numpy as np

GREY = np.array([0.299, 0.587, 0.114])
"""Luma of ITU-R BT.601: shares of red, green and blue, as OpenCV weighs them."""


class ColorMatrixJitter(A.ColorJitter):
    EXACT = True
    def apply(self, img, brightness, contrast, saturation, hue, order, **params):
        mean = np.array(cv2.mean(img)[:3])
        colour = np.eye(3, 4)
        for step in order:
            if step == 0:
                colour *= brightness
            elif step == 1:
                pivot = GREY @ (colour[:, :3] @ mean + colour[:, 3])
                colour *= contrast
                colour[:, 3] += (1 - contrast) * pivot
            elif step == 2:
                colour = saturation * colour + (1 - saturation) * (GREY @ colour)
            elif self.EXACT:
                img = A.augmentations.pixel.functional.adjust_hue_torchvision(cv2.transform(img, colour) if step!=order[0] else img, hue)
                if step!=order[-1]: mean = np.array(cv2.mean(img)[:3])
                colour = np.eye(3, 4)
            else:
                a=2*np.pi*hue; c,s=np.cos(a),np.sin(a); k=1/np.sqrt(3); K=k*np.array([[0,-1,1],[1,0,-1],[-1,1,0]])
                colour = (np.eye(3)+s*K+(1-c)*(K@K)) @ colour
        return cv2.transform(img, colour) if not self.EXACT or order[-1]!=3 else img
